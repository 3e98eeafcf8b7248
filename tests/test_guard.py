"""Who is let in: tables of `Host` and `Origin`, and the simulated Ollama's own opinion."""

import socket
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.guard import Guard, Verdict, problem_of
from ollama_gate.simulator.guard import judge as simulated

HOST = "127.0.0.1:11435"
MACHINE = socket.gethostname()

ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    "X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    "X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
"""As a real Ollama v0.32.15 spells them."""


def a_guard(*origins: str, on_loopback: bool = True, own: tuple[str, ...] = ()) -> Guard:
    return Guard(
        origins=origins, on_loopback=on_loopback, hostname=MACHINE, own_addresses=lambda: own
    )


def passes(guard: Guard, origin: str) -> bool:
    return guard.judge("GET", HOST, origin).status is None


# ------------------------------------------------------------------------------- the host


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LocalHost:80",
        "127.0.0.1",
        "127.0.0.1:11435",
        "127.9.9.9:1",
        "0.0.0.0:11435",
        "[::1]:11435",
        "[::]:1",
        "::1",
        "[::ffff:127.0.0.1]:1",
        "[::ffff:192.168.1.1]:1",
        "10.0.0.1",
        "172.16.0.1:1",
        "172.31.255.255",
        "192.168.1.5:11435",
        "[fd00::1]:1",
        "gate.local",
        "GATE.LOCAL:1",
        "a.b.internal",
        "chat.localhost:11435",
        MACHINE,
        f"{MACHINE.upper()}:1",
        "203.0.113.7:1",
        "[2001:db8::7]:1",
    ],
)
async def test_a_host_that_is_this_machine_or_its_network_is_let_in(host: str) -> None:
    guard = a_guard(own=("203.0.113.7", "2001:db8::7"))
    assert guard.judge("GET", host, "") == Verdict()


@pytest.mark.parametrize(
    "host",
    [
        "gate.example",
        "gate.example:11435",
        "foo.lan",
        "ollama:11434",
        "local",
        "internal",
        "evil-localhost",
        "localhost.",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "8.8.8.8",
        "172.32.0.1",
        "172.15.255.255:1",
        "169.254.1.1",
        "100.64.0.1",
        "192.0.2.1",
        "[fe80::1]:1",
        "[2001:db8::7]:1",
        "[::1]",
        "[::1]:1:2",
        "::1:11435:x",
        "localhost:1:2",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.01",
        " localhost",
    ],
)
async def test_a_host_that_leads_elsewhere_is_turned_away_without_a_word(host: str) -> None:
    assert a_guard().judge("GET", host, "") == Verdict(403)
    assert a_guard(on_loopback=False).judge("GET", host, "") == Verdict()


async def test_options_is_answered_for_a_name_and_left_to_others_for_an_address() -> None:
    guard = a_guard()
    assert guard.judge("OPTIONS", "localhost:1", "") == Verdict(204)
    assert guard.judge("OPTIONS", "gate.local", "") == Verdict(204)
    assert guard.judge("OPTIONS", HOST, "") == Verdict()
    assert guard.judge("OPTIONS", "gate.example", "") == Verdict(403)
    assert a_guard(on_loopback=False).judge("OPTIONS", "localhost", "") == Verdict()


async def test_addresses_of_this_machine_are_asked_for_only_where_nothing_else_decides() -> None:
    asked: list[str] = []

    def own() -> tuple[str, ...]:
        asked.append("asked")
        return ()

    guard = Guard(origins=(), on_loopback=True, hostname="machine", own_addresses=own)
    for host in (HOST, "localhost", "10.0.0.1", "gate.example", "[::1]:1", "gate.local"):
        guard.judge("GET", host, "")
    assert asked == []
    guard.judge("GET", "8.8.8.8", "")
    assert asked == ["asked"]


# ------------------------------------------------------------------------------- the origin


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:8443",
        "http://0.0.0.0",
        "http://0.0.0.0:1",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://1a2b",
        "vscode-file://vscode-app",
        f"http://{HOST}",
        f"https://{HOST}",
    ],
)
async def test_pages_of_this_machine_and_apps_are_let_in(origin: str) -> None:
    assert passes(a_guard(), origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost.evil.example",
        "http://localhost.evil.example:3000",
        "http://LOCALHOST",
        "HTTP://localhost",
        "ftp://localhost",
        "null",
        "chrome-extension://abc",
        "http://[::1]",
        "http://[::1]:3000",
        "http://192.168.1.5",
        "http://127.0.0.2",
        f"ws://{HOST}",
        "http://127.0.0.1.evil.example",
        "localhost",
        "xapp://a",
    ],
)
async def test_pages_of_others_are_turned_away_without_a_word(origin: str) -> None:
    for on_loopback in (True, False):
        guard = a_guard(on_loopback=on_loopback)
        for method in ("GET", "POST", "OPTIONS"):
            assert guard.judge(method, HOST, origin) == Verdict(403)


@pytest.mark.parametrize(
    ("allowed", "origin", "let_in"),
    [
        ("https://chat.example", "https://chat.example", True),
        ("https://Chat.EXAMPLE", "https://chat.example", True),
        ("https://Chat.EXAMPLE", "https://Chat.EXAMPLE", False),
        ("https://chat.example", "https://chat.example:8443", False),
        ("https://chat.example", "https://chat.example.evil", False),
        ("https://chat.example:8443", "https://chat.example:8443", True),
        ("http://10.0.0.*", "http://10.0.0.7", True),
        ("http://10.0.0.*", "http://10.0.0.7:3000", True),
        ("http://10.0.0.*", "http://10.0.1.7", False),
        ("*.example", "https://chat.example", True),
        ("*.example", "anything.example", True),
        ("*.example", "https://chat.example:1", False),
        ("https://*.chat.example", "https://a.b.chat.example", True),
        ("https://*.chat.example", "https://.chat.example", True),
        ("https://*.chat.example", "https://chat.example", False),
        ("https://*.chat.example", "http://a.chat.example", False),
        ("https://*.Chat.example", "https://a.chat.example", False),
        ("http://a*a", "http://a", True),
        ("chrome-extension://*", "chrome-extension://abc", True),
        ("moz-extension://abc", "moz-extension://abc", True),
        ("moz-extension://abc", "moz-extension://abcd", False),
        ("*", "null", True),
        ("*", "https://whoever.example", True),
    ],
)
async def test_what_else_is_allowed_is_compared_as_the_library_does(
    allowed: str, origin: str, *, let_in: bool
) -> None:
    """A wildcard's case counts, an entry without one is folded and the origin is not."""
    assert problem_of(allowed) is None
    assert passes(a_guard("https://other.example", allowed), origin) is let_in


@pytest.mark.parametrize(
    ("allowed", "problem"),
    [
        ("https://chat.example", None),
        ("http://chat.example", None),
        ("safari-extension://a", None),
        ("ms-browser-extension://a", None),
        ("*", None),
        ("app*", None),
        ("", "an origin"),
        ("chat.example", "an origin"),
        ("ws://chat.example", "an origin"),
        ("HTTPS://chat.example", "an origin"),
        ("null", "an origin"),
        ("http://*.a.*", "one *"),
        ("**", "one *"),
    ],
)
async def test_what_ollama_would_not_start_with_is_a_problem(
    allowed: str, problem: str | None
) -> None:
    found = problem_of(allowed)
    assert found is None if problem is None else found is not None and problem in found


# ------------------------------------------------------------------------------- the headers


async def test_a_granted_page_is_named_and_caches_are_told() -> None:
    origin = "http://localhost:3000"
    granted = (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))
    assert a_guard().judge("POST", HOST, origin) == Verdict(None, granted)
    assert a_guard().judge("GET", "gate.example", origin) == Verdict(403, granted)


async def test_where_all_are_allowed_nobody_is_named() -> None:
    granted = (("Access-Control-Allow-Origin", "*"),)
    assert a_guard("*").judge("GET", HOST, "http://localhost:3000") == Verdict(None, granted)
    assert a_guard("*").judge("GET", HOST, "") == Verdict()


async def test_a_page_of_the_gates_own_address_needs_no_headers() -> None:
    for host in (HOST, "gate.example"):
        verdict = a_guard(on_loopback=False).judge("POST", host, f"https://{host}")
        assert verdict == Verdict()


@pytest.mark.parametrize("on_loopback", [True, False])
async def test_a_preflight_is_answered_whatever_the_host(*, on_loopback: bool) -> None:
    origin = "http://localhost:3000"
    expected = [
        ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
        ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Max-Age", "43200"),
        ("Vary", "Access-Control-Request-Headers"),
        ("Vary", "Access-Control-Request-Method"),
        ("Vary", "Origin"),
    ]
    for host in (HOST, "gate.example"):
        verdict = a_guard(on_loopback=on_loopback).judge("OPTIONS", host, origin)
        assert (verdict.status, sorted(verdict.headers)) == (204, expected)


async def test_a_preflight_where_all_are_allowed_varies_with_nothing() -> None:
    verdict = a_guard("*").judge("OPTIONS", HOST, "https://whoever.example")
    assert verdict.status == 204
    assert ("Access-Control-Allow-Origin", "*") in verdict.headers
    assert "Vary" not in dict(verdict.headers)


# ------------------------------------------------------------------------------- laws

HOSTS = st.one_of(
    st.sampled_from(["", "localhost", "a.local", "gate.example", MACHINE, "127.0.0.1", "[::1]"]),
    st.ip_addresses().filter(lambda ip: ip.is_loopback or not ip.is_private).map(str),
    st.from_regex(r"[a-zA-Z0-9.]{1,12}(:[0-9]{1,5})?", fullmatch=True),
)
ORIGINS = st.one_of(
    st.just(""),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["http://", "https://", "app://", "file://", "tauri://", "x://", ""]),
        st.sampled_from(["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "evil.example", "null"]),
        st.sampled_from(["", ":", ":80", ":3000", ".evil", "/", "*"]),
    ),
    st.text(max_size=12),
)


def as_told(headers: Mapping[str, str], method: str) -> tuple[int | None, list[tuple[str, str]]]:
    verdict = simulated(method, headers)
    return verdict.status, sorted(verdict.headers)


@given(st.sampled_from(["GET", "POST", "OPTIONS", "HEAD"]), HOSTS, ORIGINS)
def test_the_gate_and_the_simulated_ollama_let_in_the_same(
    method: str, host: str, origin: str
) -> None:
    verdict = a_guard().judge(method, host, origin)
    expected = as_told({"Host": host, "Origin": origin}, method)
    if host == "[::1]":
        # Go takes no brackets without a port; the simulated one does.
        assert verdict.status in {204, 403}
    else:
        assert (verdict.status, sorted(verdict.headers)) == expected


@given(st.text(), st.text(), st.text(), st.booleans())
def test_whatever_comes_is_judged(method: str, host: str, origin: str, on_loopback: bool) -> None:
    verdict = a_guard("http://*", on_loopback=on_loopback).judge(method, host, origin)
    assert verdict.status in {None, 204, 403}
