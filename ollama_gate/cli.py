"""The command line: the only place that prints.

Exit status: 0 when all went well, 2 for a wrong command line or configuration, 1 where an upstream
could not say what it was asked.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ollama_gate import __version__, config, log
from ollama_gate.cli_replay import replay
from ollama_gate.config.structs import KvCacheType
from ollama_gate.errors import (
    ConfigError,
    ListenError,
    ModelUnknownError,
    StateError,
    UpstreamError,
    UpstreamRefusedError,
)
from ollama_gate.estimate import Asked, Report, Row, from_file, from_upstream
from ollama_gate.gpu import Card
from ollama_gate.simulator import Settings, SimulatedOllama
from ollama_gate.simulator.demo import SimulatedCard, run_demo
from ollama_gate.site import Site

_system = log.get(log.Component.SYSTEM)

USAGE_ERROR = 2
NO_ANSWER = 1

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
_upstream_option = click.option(
    "--upstream",
    metavar="URL",
    help="The Ollama to stand before; of several in gate.yaml one, by name or address.",
)


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
    except (ListenError, StateError) as error:
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


main.add_command(replay)


def _read_size(context: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes, also as `4.7GB` or `21GiB`."""
    if value is None:
        return None
    try:
        size_bytes = config.parse_size(value)
    except ValueError:
        size_bytes = 0
    if size_bytes <= 0:
        text = f"{value!r} is no size above 0, such as 4683087332 or 4.7GB"
        raise click.BadParameter(text, context, param)
    return size_bytes


@main.command()
@click.argument("model", required=False)
@_config_option
@_upstream_option
@click.option(
    "--show",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The answer of /api/show as JSON, instead of an upstream that has the model.",
)
@click.option(
    "--size", callback=_read_size, metavar="BYTES", help="Of the model on disk, with --show."
)
@click.option("--num-ctx", type=click.IntRange(min=1), help="Context, as a request asks for it.")
@click.option("--num-parallel", type=click.IntRange(min=1), help="OLLAMA_NUM_PARALLEL to assume.")
@click.option(
    "--kv-cache-type",
    type=click.Choice(get_args(KvCacheType)),
    help="OLLAMA_KV_CACHE_TYPE to assume.",
)
@click.option("--json", "as_json", is_flag=True, help="For a program to read.")
def estimate(
    model: str | None,
    path: Path | None,
    upstream: str | None,
    show: Path | None,
    size: int | None,
    num_ctx: int | None,
    num_parallel: int | None,
    kv_cache_type: str | None,
    *,
    as_json: bool,
) -> None:
    """Say how much memory MODEL would take, part by part, and in which contexts it would fit."""
    if size is not None and show is None:
        raise click.UsageError("--size goes with --show: an upstream says itself")
    if model is None and show is None:
        raise click.UsageError("name a MODEL that the upstream has, or give --show FILE")
    effective = _effective(path, upstream=upstream).config
    asked = Asked(
        model=model or (show.stem if show else ""),
        num_ctx=num_ctx,
        num_parallel=num_parallel,
        kv_cache_type=kv_cache_type,
    )
    work = from_file(effective, asked, show, size) if show else from_upstream(effective, asked)
    try:
        report = asyncio.run(work)
    except ConfigError as error:
        _fail(str(error))
    except UpstreamRefusedError as error:
        _fail(f"{effective.upstream.url} answered {error}", NO_ANSWER)
    except (ModelUnknownError, UpstreamError) as error:
        _fail(str(error), NO_ANSWER)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report, _console(sys.stdout))


def _print_report(report: Report, console: Console) -> None:
    if report.remote:
        console.print(f"{escape(report.model)} runs elsewhere and takes nothing here.")
        return
    whole = report.estimate
    console.print(
        f"{escape(report.model)}: {log.size(report.total_bytes)} ({report.source}, "
        f"±{report.error:.0%}) with {whole.num_ctx} tokens of context for each of "
        f"{whole.parallel} slot(s); /api/ps would show {log.size(whole.size_vram_bytes)}",
        highlight=False,
    )
    table = Table("part", "bytes", "±", "from", box=None, pad_edge=False)
    for part in whole.parts:
        error = str(log.size(part.error_bytes)) if part.error_bytes else ""
        table.add_row(part.what, str(log.size(part.bytes)), error, escape(part.source))
    if report.configured_bytes is not None:
        table.add_row("configured", str(log.size(report.configured_bytes)), "", "gate.yaml")
    console.print(table)
    console.print(_memory_line(report), highlight=False)
    table = Table("context", "takes", "size_vram", "fits", box=None, pad_edge=False)
    for row in report.rows:
        context = f"{row.num_ctx}{' *' if row.in_effect else ''}"
        sizes = (str(log.size(row.total_bytes)), str(log.size(row.size_vram_bytes)))
        table.add_row(context, *sizes, _fits(row, report))
    console.print(table)
    console.print("* in effect for a request that names no other", highlight=False)


def _fits(row: Row, report: Report) -> str:
    if row.fits == "beside what is loaded" and not report.memory.loaded:
        return "yes"
    return f"{row.fits} ({row.cpu_share:.0%})" if row.cpu_share else row.fits


def _memory_line(report: Report) -> str:
    memory = report.memory
    if memory.total_bytes is None:
        return f"memory: unknown ({escape(memory.note)})"
    free = "" if memory.free_bytes is None else f", free {log.size(memory.free_bytes)}"
    loaded = ", ".join(map(escape, memory.loaded)) or "nothing else"
    return (
        f"memory: {log.size(memory.total_bytes)} ({memory.source}{' ' if memory.device else ''}"
        f"{escape(memory.device)}), for models {log.size(memory.planned_bytes or 0)}{free}; "
        f"loaded: {loaded}"
    )


def _effective(path: Path | None, **flags: str | None) -> config.Effective:
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return config.load(path=path, environ=os.environ, flags=given)
    except ConfigError as error:
        _fail(str(error))


def _fail(text: str, status: int = USAGE_ERROR) -> NoReturn:
    click.echo(text, err=True)
    raise SystemExit(status)


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
    # What a simulation shows is true of nothing else.
    site = Site(effective, card=card, temporary=card is not None)
    await site.open()
    upstreams = ", ".join(upstream.url for upstream in effective.upstreams)
    _system.info("listening", url=site.url, upstream=upstreams, version=__version__)
    await stop.wait()
    _system.info("shutting down", grace_s=effective.grace_s)
    await site.close()
    _system.info("stopped")


async def _simulated(effective: config.Config) -> None:
    async with SimulatedOllama(Settings(context_length=SIMULATED_CONTEXT)) as simulated:
        upstream = config.UpstreamConfig(
            name="simulated", url=simulated.url, context_length=SIMULATED_CONTEXT
        )
        await _serve(structs.replace(effective, upstreams=(upstream,)), SimulatedCard(simulated))


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
