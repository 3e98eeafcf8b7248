"""The command line, as real processes on the loopback."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import ollama_gate
from ollama_gate import __version__
from ollama_gate.simulator import SimulatedOllama

BIG, OTHER_BIG = "qwen2.5:32b", "gemma3:27b"
"""Neither leaves room for the other on 24 GiB."""

TINY = "qwen2.5:0.5b"

LIMIT_S = 30.0

Http = aiohttp.ClientSession


class Command:
    """A running `ollama-gate`; `log` has the lines of stderr that were read so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[str] = []

    async def says(self, text: str) -> str:
        """Read on in stderr up to the first line with this text."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            while line := (await self.process.stderr.readline()).decode():
                self.log.append(line)
                if text in line:
                    return line
        raise AssertionError(f"it never said {text!r}:\n{''.join(self.log)}")

    async def listens(self) -> str:
        """The address, once it is known."""
        found = re.search(r"url=(\S+)", await self.says("listening"))
        assert found is not None
        return found[1]

    async def ends(self, limit_s: float = LIMIT_S) -> tuple[int, str]:
        """The exit status and stdout; what is left of stderr is read as well."""
        async with asyncio.timeout(limit_s):
            out, err = await self.process.communicate()
        self.log += err.decode().splitlines(keepends=True)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()

    @property
    def text(self) -> str:
        return "".join(self.log)


Start = Callable[..., Awaitable[Command]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start `ollama-gate` where no file and no variable of the user's is seen."""
    started: list[Command] = []
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA")}
    root = str(Path(ollama_gate.__file__).parent.parent)
    environment = {**kept, "HOME": str(tmp_path), "PYTHONPATH": root, "COLUMNS": "200"}

    async def start(*arguments: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ollama_gate", *arguments),
            cwd=tmp_path,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(Command(process))
        return started[-1]

    yield start
    for command in started:
        if command.process.returncode is None:
            command.process.kill()
            await command.ends()


@pytest.fixture
async def serve(
    start: Start, ollama: SimulatedOllama, tmp_path: Path
) -> Callable[[], Awaitable[Command]]:
    """Start a gate before the simulated Ollama, with a budget of 24 GiB."""
    config = {
        "listen": "127.0.0.1:0",
        "upstreams": [{"url": ollama.url, "context_length": 4096, "gpus": [{"vram": "24GiB"}]}],
    }
    (tmp_path / "gate.yaml").write_text(json.dumps(config))
    return lambda: start("serve")


async def post(http: Http, url: str, model: str) -> tuple[int, bytes]:
    body = {"model": model, "prompt": "Hello", "options": {"num_predict": 2}}
    async with http.post(f"{url}/api/generate", json=body) as response:
        return response.status, await response.read()


async def until(http: Http, url: str, holds: Callable[[Any], object]) -> None:
    """Ask for the gate's status until it is so."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            async with http.get(f"{url}/gate/status") as response:
                if holds(await response.json()):
                    return


def taken_port() -> tuple[socket.socket, str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


# ------------------------------------------------------------------------------- serve


async def test_it_serves_on_a_simulated_ollama(start: Start, http: Http) -> None:
    command = await start("serve", "--simulate", "--listen", "127.0.0.1:0")
    url = await command.listens()
    async with http.get(f"{url}/gate/health") as response:
        assert await response.json() == {"status": "alive", "version": __version__}
    code, body = await post(http, url, TINY)
    assert code == 200
    assert json.loads(body.splitlines()[-1])["done"] is True
    command.process.terminate()
    assert (await command.ends())[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_at_a_signal_the_waiting_are_refused_and_the_running_end(
    serve: Callable[[], Awaitable[Command]],
    ollama: SimulatedOllama,
    http: Http,
    number: signal.Signals,
) -> None:
    command = await serve()
    url = await command.listens()
    ollama.faults.hang(BIG)
    running = asyncio.create_task(post(http, url, BIG))
    await until(http, url, lambda status: status["running"])
    waiting = asyncio.create_task(post(http, url, OTHER_BIG))
    await until(http, url, lambda status: status["waiting"])
    command.process.send_signal(number)
    code, body = await waiting
    assert code == 503
    assert "shutting down" in json.loads(body)["error"]
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(http, url, BIG)
    ollama.faults.unhang(BIG)
    assert (await running)[0] == 200
    assert (await command.ends())[0] == 0
    assert "stopped" in command.log[-1]
    async with http.get(f"{ollama.url}/api/ps") as response:
        (model,) = (await response.json())["models"]
    assert model["expires_at"] < "2100", "Ollama would keep it for ever"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    serve: Callable[[], Awaitable[Command]],
    ollama: SimulatedOllama,
    http: Http,
    number: signal.Signals,
) -> None:
    command = await serve()
    url = await command.listens()
    ollama.faults.hang(TINY)
    running = asyncio.create_task(post(http, url, TINY))
    await until(http, url, lambda status: status["running"])
    command.process.send_signal(number)
    await command.says("shutting down")
    command.process.send_signal(number)
    assert (await command.ends())[0] == 1
    assert "second signal" in command.text
    with pytest.raises(aiohttp.ClientError):
        await running


async def test_it_waits_for_an_ollama_that_is_down_and_says_so_once(
    serve: Callable[[], Awaitable[Command]], ollama: SimulatedOllama, http: Http
) -> None:
    await ollama.go_down()
    command = await serve()
    url = await command.listens()
    await command.says("does not answer")
    async with http.get(f"{url}/gate/ready") as response:
        assert response.status == 503
    waiting = asyncio.create_task(post(http, url, TINY))
    await ollama.come_back()
    assert (await waiting)[0] == 200
    async with http.get(f"{url}/gate/ready") as response:
        assert response.status == 200
    command.process.terminate()
    assert (await command.ends())[0] == 0
    assert command.text.count("upstream does not answer") == 1
    assert command.text.count("upstream answers") == 1


async def test_a_gate_before_an_ollama_that_is_down_can_be_ended(
    serve: Callable[[], Awaitable[Command]], ollama: SimulatedOllama, http: Http
) -> None:
    await ollama.go_down()
    command = await serve()
    url = await command.listens()
    async with http.get(f"{url}/gate/health") as response:
        assert response.status == 200
    command.process.terminate()
    assert (await command.ends())[0] == 0


async def test_an_address_that_is_taken_is_told_plainly(start: Start) -> None:
    listener, address = taken_port()
    with listener:
        command = await start("serve", "--simulate", "--listen", address)
        assert (await command.ends())[0] == 2
    assert command.log[-1].startswith(f"cannot listen on {address}: ")
    assert "in use" in command.log[-1]
    assert "Traceback" not in command.text


async def test_the_log_may_be_json(start: Start, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("listen: 127.0.0.1:0\nlog: {format: json}\n")
    command = await start("serve", "--simulate")
    line = json.loads(await command.says("listening"))
    assert (line["component"], line["level"], line["version"]) == ("SYSTEM", "info", __version__)
    command.process.terminate()
    assert (await command.ends())[0] == 0
    assert all(json.loads(each)["time"] for each in command.log)


# ------------------------------------------------------------------------------- check


async def test_check_shows_what_is_in_effect_and_where_it_is_from(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "gate.yaml").write_text("grace: 90s\nmodels:\n  'a[b]:1b': {vram: 21GiB}\n")
    command = await start("check", "--listen", "127.0.0.1:7777")
    code, out = await command.ends()
    assert code == 0
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert ["listen", "127.0.0.1:7777", "flag --listen"] in rows
    assert ["keep_alive", "5m", "default"] in rows
    (grace,) = [row for row in rows if row[0] == "grace"]
    assert grace[1] == "1m30s"
    assert grace[2].startswith("gate.yaml")
    assert "a[b]:1b" in out
    assert "21GiB" in out


async def test_check_without_any_file_shows_the_defaults(start: Start) -> None:
    code, out = await (await start("check")).ends()
    assert code == 0
    assert "127.0.0.1:11435" in out


@pytest.mark.parametrize("name", ["check", "serve"])
async def test_every_problem_of_a_file_is_told_at_once(
    start: Start, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("grace: soon\nkeep_alife: 5m\nqueue: {max_size: many}\n")
    command = await start(name, "-c", str(path))
    code, out = await command.ends()
    assert (code, out) == (2, "")
    for wrong in ("grace", "soon", "keep_alife", "keep_alive", "queue.max_size", "many"):
        assert wrong in command.text
    assert "Traceback" not in command.text


# ------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "extra"], "extra"),
        (["serve", "--listen", "nowhere:99999"], "nowhere:99999"),
        (["serve", "--upstream", "ftp://there"], "ftp://there"),
        (["check", "-c", "missing.yaml"], "missing.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_a_wrong_command_line_is_told_and_ends_with_2(
    start: Start, arguments: list[str], named: str
) -> None:
    command = await start(*arguments)
    code, out = await command.ends()
    assert (code, out) == (2, "")
    assert named in command.text
    assert "Traceback" not in command.text


async def test_it_knows_its_version(start: Start) -> None:
    code, out = await (await start("--version")).ends()
    assert (code, out) == (0, f"ollama-gate, version {__version__}\n")


async def test_the_demo_shows_that_the_gate_swaps_less(start: Start) -> None:
    command = await start("demo")
    code, out = await command.ends(limit_s=120)
    assert (code, command.text) == (0, "")
    rows = {(cells := re.split(r"  +", line.strip()))[0]: cells[1:] for line in out.splitlines()}
    assert rows["finished"] == ["60", "60"]
    assert rows["failed"] == ["0", "0"]
    straight, gated = map(int, rows["loads (swaps)"])
    assert gated < straight
    assert [title for title in rows if title.startswith("wait, ")] == [
        f"wait, {name}: mean / longest" for name in ("high", "normal", "low")
    ]


async def test_grace_ends_and_what_still_runs_is_cut_off(
    serve: Callable[[], Awaitable[Command]],
    ollama: SimulatedOllama,
    http: Http,
    tmp_path: Path,
) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "grace": "200ms"}))
    command = await serve()
    url = await command.listens()
    ollama.faults.hang(TINY)
    running = asyncio.create_task(post(http, url, TINY))
    await until(http, url, lambda status: status["running"])
    command.process.terminate()
    await command.says("answers cut off")
    assert (await command.ends(limit_s=5))[0] == 0
    with pytest.raises(aiohttp.ClientError):
        await running
