"""The conformance suite on the gate, and the suite itself on proxies that do one thing wrong."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest

from ollama_gate.simulator import SimulatedOllama
from tests.conformance import table
from tests.conformance.__main__ import main
from tests.conformance.case import Case, asks_of
from tests.conformance.cases import CASES
from tests.conformance.compare import Leave
from tests.conformance.places import ROLES, roles_of
from tests.conformance.suite import (
    KNOWN,
    Known,
    Outcome,
    Plan,
    Verdict,
    find_roles,
    load_known,
    run,
    select,
)
from tests.conftest import MakeOllama, MakeSite

GROUPS = tuple(dict.fromkeys(case.group for case in CASES))
CARD = (24 * 2**30,)
# A load takes a few milliseconds; a word takes as long as on a slow card, so that streams show
# their pace. What expires is told by a clock that runs so much faster than ours.
FAST_LOADS = {"speed": 20.0, "load_bandwidth": 1e12, "load_start_s": 0.1, "discovery_s": 0.0}
QUICK = {**FAST_LOADS, "unload_s": 0.01, "recovery_s": 0.01, "cloud": False}
LEAVE = Leave(expiry_s=60.0)


@pytest.mark.parametrize("group", GROUPS)
async def test_nothing_but_what_is_known_tells_the_gate_from_ollama(
    group: str, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(cards=CARD, **QUICK)
    site = await make_site(ollama)
    plan = Plan(
        straight=ollama.url,
        proxied=site.url,
        only=f"{group}/*",
        leave=LEAVE,
        known=load_known(KNOWN),
        timeout_s=5.0,
    )
    outcomes = await run(CASES, plan)
    bad = [outcome for outcome in outcomes if outcome.verdict.is_bad]
    assert not bad, "\n".join(table.lines(bad))


# ---------------------------------------------------------------- proxies that do one thing wrong

Change = Callable[[bytes], bytes]


def _same(data: bytes) -> bytes:
    return data


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What a proxy does to whole requests, and to pieces of answers as they come.

    Attributes:
        merges: whether an answer is passed on only when all of it has come.
    """

    request: Change = _same
    answer: Change = _same
    merges: bool = False


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """One request with a length or in chunks, as it came; nothing if there is none any more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    lowered = head.lower()
    if b"chunked" in lowered:
        return head + await reader.readuntil(b"\r\n0\r\n\r\n")
    _, _, rest = lowered.partition(b"content-length:")
    length = rest.partition(b"\r\n")[0].strip()
    return head + (await reader.readexactly(int(length)) if length.isdigit() else b"")


async def _serve(
    defect: Defect,
    upstream: tuple[str, int],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """One request, one answer, then the connection ends."""
    behind = None
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        request = await _read_request(reader)
        answered, behind = await asyncio.open_connection(*upstream)
        behind.write(_closing(defect.request(request)))
        held = b""
        while data := await answered.read(65536):
            held += data
            if not defect.merges:
                writer.write(defect.answer(held))
                await writer.drain()
                held = b""
        writer.write(defect.answer(held))
        await writer.drain()
    for one in (behind, writer):
        if one is not None:
            one.close()


def _closing(request: bytes) -> bytes:
    """Ask the upstream to hang up when it has answered: that is how the end is known here."""
    line, end, rest = request.partition(b"\r\n")
    return line + end + (b"Connection: close\r\n" if end else b"") + rest


@contextlib.asynccontextmanager
async def _proxy(upstream: SimulatedOllama, defect: Defect) -> AsyncIterator[str]:
    host, port = upstream.url.removeprefix("http://").split(":")
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_serve(defect, (host, int(port)), reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", limit=2**24)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _body_again(request: bytes) -> bytes:
    """A request whose JSON has been read and written anew."""
    head, end, body = request.partition(b"\r\n\r\n")
    try:
        again = json.dumps(json.loads(body)).encode()
    except ValueError:
        return request
    old, new = (b"Content-Length: %d" % len(one) for one in (body, again))
    return head.replace(old, new) + end + again


def _answer_again(answer: bytes) -> bytes:
    """JSON with another escape for the same letter: as many bytes, the same meaning."""
    return answer.replace(b"\\u003c", b"\\u003C")


def _head_lowered(answer: bytes) -> bytes:
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if not lines[0].startswith(b"HTTP/"):
        return answer
    names = (line.partition(b":") for line in lines[1:])
    return (
        b"\r\n".join([lines[0], *(name.lower() + colon + value for name, colon, value in names)])
        + end
        + body
    )


def _unrouted(request: bytes) -> bytes:
    line, _, rest = request.partition(b"\r\n")
    return line.replace(b"//", b"/") + b"\r\n" + rest


def _without(name: bytes) -> Change:
    """Leave out the lines that begin so."""

    def without(data: bytes) -> bytes:
        head, end, body = data.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(name)]
        return b"\r\n".join(lines) + end + body

    return without


def _with_header(answer: bytes) -> bytes:
    return answer.replace(b"\r\nDate:", b"\r\nVia: 1.1 proxy\r\nDate:", 1)


def _without_query(request: bytes) -> bytes:
    line, _, rest = request.partition(b"\r\n")
    target, _, version = line.partition(b" HTTP/")
    return target.partition(b"?")[0] + b" HTTP/" + version + b"\r\n" + rest


DEFECTS = {
    "merges what comes apart": (Defect(merges=True), "generate/a stream", "arrivals"),
    "writes a request's JSON anew": (
        Defect(request=_body_again),
        "reading/options twice are one",
        "body",
    ),
    "writes an answer's JSON anew": (
        Defect(answer=_answer_again),
        "keep_alive/letters that Go escapes",
        "body",
    ),
    "leaves out a header of the answer": (
        Defect(answer=_without(b"content-type")),
        "routes/GET /",
        "header content-type",
    ),
    "leaves out the length": (
        Defect(answer=_without(b"content-length")),
        "routes/GET /api/version",
        "framing",
    ),
    "leaves out an origin": (
        Defect(request=_without(b"origin")),
        "origins/foreign",
        "status",
    ),
    "adds a header": (Defect(answer=_with_header), "routes/GET /api/tags", "header via"),
    "writes headers in small letters": (
        Defect(answer=_head_lowered),
        "routes/GET /api/version",
        "header content-type",
    ),
    "changes the status": (
        Defect(
            answer=lambda data: data.replace(b"HTTP/1.1 404 Not Found", b"HTTP/1.1 502 Not Found")
        ),
        "unknown/GET",
        "status",
    ),
    "changes the reason": (
        Defect(answer=lambda data: data.replace(b"404 Not Found", b"404 not found", 1)),
        "unknown/GET",
        "reason",
    ),
    "joins double slashes": (Defect(request=_unrouted), "spellings/double slash inside", "status"),
    "forgets keep_alive": (
        Defect(request=lambda data: data.replace(b'"keep_alive":86400', b'"keep_alive":null ')),
        "keep_alive/a large number",
        "expiry",
    ),
    "breaks an answer off": (
        Defect(answer=lambda data: data.replace(b"0\r\n\r\n", b"")),
        "routes/GET /api/tags",
        "broken",
    ),
}


async def _outcome(ollama: SimulatedOllama, defect: Defect, only: str) -> list[Outcome]:
    async with _proxy(ollama, defect) as url:
        plan = Plan(straight=ollama.url, proxied=url, only=only, leave=LEAVE, timeout_s=20.0)
        return await run(CASES, plan)


@pytest.mark.parametrize("what", DEFECTS)
async def test_a_proxy_is_found_out_that(what: str, make_ollama: MakeOllama) -> None:
    defect, name, kind = DEFECTS[what]
    # Pace shows only in an answer that takes its time.
    ollama = await make_ollama(cards=CARD, **{**QUICK, "speed": 0.5 if defect.merges else 20.0})
    (found,) = await _outcome(ollama, defect, name)
    assert kind in {difference.kind for difference in found.differences}, found
    assert found.verdict is Verdict.DIFFERS
    (innocent,) = await _outcome(ollama, Defect(), name)
    assert innocent.verdict is Verdict.SAME, innocent


# ---------------------------------------------------------------- the suite's own parts


def test_there_are_many_cases_and_no_name_is_given_twice() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 170


def test_every_route_has_a_case() -> None:
    routes = {
        f"{ask.method} {ask.target}"
        for case in CASES
        for step in case.steps
        for ask in asks_of(step)
    }
    for path in (
        "generate",
        "chat",
        "embed",
        "embeddings",
        "pull",
        "push",
        "create",
        "copy",
        "show",
    ):
        assert f"POST /api/{path}" in routes
    for path in ("chat/completions", "completions", "embeddings", "responses", "messages"):
        assert f"POST /v1/{path}" in routes


def test_a_case_says_which_roles_it_needs() -> None:
    needed = {role for case in CASES for role in roles_of(case)}
    assert needed == set(ROLES)


def test_the_smallest_model_that_can_plays_a_role() -> None:
    def model(name: str, size: int, *capabilities: str, host: str = "") -> dict[str, object]:
        return {"name": name, "size": size, "capabilities": capabilities, "remote_host": host}

    roles = find_roles(
        [
            model("large", 9, "completion"),
            model("small", 2, "completion", "tools"),
            model("tiny", 1, "embedding"),
            model("far", 0, "completion", "vision", host="https://ollama.example"),
        ]
    )
    assert roles["chat"] == "small"
    assert roles["other"] == roles["toolless"] == "large"
    assert roles["embed"] == "tiny"
    assert roles["stub"] == "far"
    assert "vision" not in roles


async def test_a_case_is_skipped_whose_role_nobody_plays(make_ollama: MakeOllama) -> None:
    ollama = await make_ollama(models=("all-minilm",), **QUICK)
    plan = Plan(straight=ollama.url, proxied=ollama.url, only="generate/whole")
    (outcome,) = await run(CASES, plan)
    assert outcome.verdict is Verdict.SKIPPED
    assert "a model that completes text" in outcome.reason


async def test_a_known_difference_is_named_and_one_that_is_gone_is_an_error(
    make_ollama: MakeOllama,
) -> None:
    ollama = await make_ollama(**QUICK)
    always = Known(
        cause="It says who it is.", cases=("routes/GET /api/version",), kinds=("header via",)
    )
    for defect, known, verdict in (
        (Defect(answer=_with_header), always, Verdict.KNOWN),
        (Defect(), always, Verdict.STALE),
        (Defect(), replace(always, sometimes=True), Verdict.SAME),
    ):
        async with _proxy(ollama, defect) as url:
            plan = Plan(
                straight=ollama.url, proxied=url, only="routes/GET /api/version", known=[known]
            )
            (outcome,) = await run(CASES, plan)
        assert outcome.verdict is verdict
        named = "It says who it is." in "\n".join(table.lines([outcome]))
        assert named == (verdict is not Verdict.SAME)


def test_every_known_difference_belongs_to_some_case() -> None:
    for entry in load_known(KNOWN):
        assert entry.cause
        assert entry.kinds
        for pattern in entry.cases:
            assert select(CASES, pattern), pattern


def test_the_command_lists_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", "packed/*"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(select(CASES, "packed/*"))


def test_the_command_wants_two_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:1"]) == 2
    assert "PROXIED" in capsys.readouterr().out


def test_a_group_can_be_chosen_by_its_name() -> None:
    chosen: list[Case] = select(CASES, "packed")
    assert chosen
    assert {case.group for case in chosen} == {"packed"}
