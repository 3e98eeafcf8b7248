"""The command line: the only place that prints.

Exit status: 0 when all went well, 2 for a wrong command line or configuration.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ollama_gate import __version__, config, log
from ollama_gate.errors import ConfigError, ListenError
from ollama_gate.gpu import Card
from ollama_gate.simulator import Settings, SimulatedOllama
from ollama_gate.simulator.demo import SimulatedCard, run_demo
from ollama_gate.site import Site

_system = log.get(log.Component.SYSTEM)

USAGE_ERROR = 2

SIMULATED_CONTEXT = 4096

_config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="gate.yaml to use; otherwise the first of OLLAMA_GATE_CONFIG, ./gate.yaml, "
    "~/.config/ollama-gate/gate.yaml, /etc/ollama-gate/gate.yaml that exists.",
)
_listen_option = click.option("--listen", metavar="HOST:PORT", help="Where to listen.")
_upstream_option = click.option("--upstream", metavar="URL", help="The Ollama to stand before.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ollama-gate")
def main() -> None:
    """A transparent reverse proxy for Ollama with a VRAM-aware admission queue."""


@main.command()
@_config_option
@_listen_option
@_upstream_option
@click.option("--simulate", is_flag=True, help="Stand before a simulated Ollama with 24 GiB.")
def serve(path: Path | None, listen: str | None, upstream: str | None, *, simulate: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    effective = _effective(path, listen=listen, upstream=upstream)
    log.configure(effective.config.log.level, effective.config.log.format)
    work = _simulated(effective.config) if simulate else _serve(effective.config)
    try:
        _run(work)
    except ListenError as error:
        _fail(str(error))


@main.command()
@_config_option
@_listen_option
@_upstream_option
def check(path: Path | None, listen: str | None, upstream: str | None) -> None:
    """Validate the configuration; print what is in effect and where each value is from."""
    effective = _effective(path, listen=listen, upstream=upstream)
    table = Table("key", "value", "from", box=None, pad_edge=False)
    for key, value, origin in config.describe(effective):
        table.add_row(*(escape(text) for text in (key, value, origin)))
    _console(sys.stdout).print(table)


@main.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, for a look with curl.")
def demo(*, keep: bool) -> None:
    """Show the main job on a simulated Ollama: 60 requests straight, then through the gate."""
    log.configure("error", "text")
    _run(_demonstrate(keep=keep))


def _effective(path: Path | None, **flags: str | None) -> config.Effective:
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return config.load(path=path, environ=os.environ, flags=given)
    except ConfigError as error:
        _fail(str(error))


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    raise SystemExit(USAGE_ERROR)


def _console(stream: Any) -> Console:
    """Wide enough for any path when nobody looks: a table piped away must not be cut."""
    return Console(file=stream, width=None if stream.isatty() else 200)


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def _serve(effective: config.Config, card: Card | None = None) -> None:
    stop = _signalled()
    site = Site(effective, card=card)
    await site.open()
    _system.info("listening", url=site.url, upstream=effective.upstream.url, version=__version__)
    await stop.wait()
    _system.info("shutting down", grace_s=effective.grace_s)
    await site.close()
    _system.info("stopped")


async def _simulated(effective: config.Config) -> None:
    async with SimulatedOllama(Settings(context_length=SIMULATED_CONTEXT)) as simulated:
        upstream = config.UpstreamConfig(
            name="simulated", url=simulated.url, context_length=SIMULATED_CONTEXT
        )
        await _serve(structs.replace(effective, upstream=upstream), SimulatedCard(simulated))


async def _demonstrate(*, keep: bool) -> None:
    stop = _signalled() if keep else asyncio.Event()
    await run_demo(Console(), stop, keep=keep)


def _signalled() -> asyncio.Event:
    """An event for the first SIGTERM or SIGINT; the second ends the process at once."""
    stop = asyncio.Event()

    def received() -> None:
        if stop.is_set():
            _system.warning("second signal: ending at once")
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received)
    return stop
