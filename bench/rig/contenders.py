"""Who is compared: nobody in between, a bare pass-through, nginx, and the gate as it ships."""

import asyncio
import contextlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.rig.client import ExchangeError, fetch, post
from bench.rig.processes import Process, child, free_port
from bench.rig.upstream import MODEL

STRAIGHT: Final = "straight"
BARE: Final = "bare"
NGINX: Final = "nginx"
GATE: Final = "gate"
EVERYBODY: Final = (STRAIGHT, BARE, NGINX, GATE)

READY_WITHIN_S: Final = 20.0
MANY: Final = 4096
"""Requests that may run at once where the queue is not what is measured."""

_NGINX_CONF: Final = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_max_body_size 0;
  keepalive_requests 100000000;
  keepalive_timeout 1h;
  upstream ollama {{
    server 127.0.0.1:{upstream};
    keepalive 256;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://ollama;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Contender:
    """Where to send requests, and what they cost there; nobody in between costs nothing."""

    name: str
    port: int
    process: Process | None = None


@dataclass(frozen=True)
class Ring:
    """The upstream, and how contenders are put before it.

    Attributes:
        upstream: its port.
        directory: for configurations and logs.
        gate_command: what `serve` and its options are appended to.
    """

    upstream: int
    directory: Path
    gate_command: str

    def has(self, name: str) -> bool:
        """Whether this machine has what it takes."""
        return name != NGINX or nginx() is not None

    @contextlib.asynccontextmanager
    async def enter(self, name: str, num_parallel: int = MANY) -> AsyncIterator[Contender]:
        """Start a contender and see that it relays.

        Args:
            name: one of `EVERYBODY`.
            num_parallel: how many requests the gate may let run at once.
        """
        if name == STRAIGHT:
            yield Contender(name, self.upstream)
            return
        port = free_port()
        argv = {BARE: self._bare, NGINX: self._nginx}.get(name)
        command = argv(port) if argv else self._gate(port, num_parallel)
        with child(f"{name}-{port}", command, self.directory) as process:
            await until_answered(port, process)
            yield Contender(name, port, process)

    def _bare(self, port: int) -> Sequence[str]:
        upstream = f"http://127.0.0.1:{self.upstream}"
        return [sys.executable, "-m", "bench.rig.passthrough", str(port), upstream]

    def _nginx(self, port: int) -> Sequence[str]:
        program = nginx()
        assert program is not None, "`has` comes first"
        path = self.directory / f"nginx-{port}.conf"
        path.write_text(
            _NGINX_CONF.format(directory=self.directory, upstream=self.upstream, port=port)
        )
        return [program, "-p", str(self.directory), "-c", str(path)]

    def _gate(self, port: int, num_parallel: int) -> Sequence[str]:
        # JSON is YAML. The footprint is given, since that of thousands of contexts fits no card.
        settings: dict[str, Any] = {
            "listen": f"127.0.0.1:{port}",
            "upstreams": [
                {
                    "name": "bench",
                    "url": f"http://127.0.0.1:{self.upstream}",
                    "num_parallel": num_parallel,
                    "context_length": 4096,
                    "gpus": [{"vram": "24GiB"}],
                }
            ],
            "models": {MODEL: {"vram": "2GiB"}},
            "queue": {"max_size": 100_000},
            "grace": "1s",
        }
        path = self.directory / f"gate-{port}.yaml"
        path.write_text(json.dumps(settings))
        return [*shlex.split(self.gate_command), "serve", "-c", str(path)]


@contextlib.asynccontextmanager
async def entered(ring: Ring, names: Sequence[str]) -> AsyncIterator[list[Contender]]:
    """Those of the named contenders that this machine has, all at once."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ring.enter(name)) for name in names if ring.has(name)
        ]


def nginx() -> str | None:
    """Where nginx is, if it is installed; servers are often outside of a user's path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def chat(mode: str, body: bytes = b"", **query: str | int) -> bytes:
    """A request of the one resident model, answered as `bench.rig.upstream.Mode` says."""
    target = "&".join([f"mode={mode}", *(f"{key}={value}" for key, value in query.items())])
    return post(f"/api/chat?{target}", body or question("Why is the sky blue?"))


def question(content: str, *images: str) -> bytes:
    """The body of a chat."""
    message = {"role": "user", "content": content, **({"images": images} if images else {})}
    return json.dumps({"model": MODEL, "messages": [message], "stream": False}).encode()


async def until_answered(port: int, process: Process) -> None:
    """Wait until a contender relays.

    Raises:
        ExchangeError: it ended, or did not within the time it has.
    """
    give_up_at = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            await fetch(port, chat("small"))
        except (OSError, ExchangeError) as error:
            if not process.alive() or time.monotonic() > give_up_at:
                raise ExchangeError(f"{process.name}: {error}\n{process.said()}") from error
            await asyncio.sleep(0.05)
        else:
            return
