"""HTTP itself: connections, versions, framing, origins, hosts, sizes, and clients that leave."""

from tests.conformance.case import GENERATED, Ask, Case, Together, case, get, head, post, send

_PATIENCE_S = 3.0
"""Go takes a half closed connection for a client that has gone, and may not answer at all."""

_FIXED = '"options":{"seed":1,"temperature":0,"num_predict":6}'
_GENERATE = f'{{"model":"@chat@","prompt":"x","stream":false,{_FIXED}}}'
_ENDLESS = '{"model":"@chat@","prompt":"x","options":{"seed":1,"temperature":0,"num_predict":400}}'
_GET = "GET / HTTP/1.1\r\nHost: @host@\r\n"
_POST = "POST /api/show HTTP/1.1\r\nHost: @host@\r\n"
_CHUNKS = f"{_POST}Transfer-Encoding: chunked\r\n"
_CHUNKED_BODY = "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
_CUT_SHORT = f"{_POST}Content-Length: 100\r\n\r\n{{"
_JSON = (("Content-Type", "application/json"),)


def _cases() -> list[Case]:
    return [
        *_connections(),
        *_versions(),
        *_origins(),
        *_preflights(),
        *_hosts(),
        *_sizes(),
        *_leaving(),
        *_malformed(),
        *_headers(),
    ]


def _connections() -> list[Case]:
    version, tags, missing = get("/api/version"), get("/api/tags", masks=("order",)), get("/none")
    stream = post("/api/generate", f'{{"model":"@chat@","prompt":"x",{_FIXED}}}')
    return [
        case("connections/used again", Together((version, tags, missing, version))),
        case("connections/used again after HEAD", Together((head("/api/tags"), version))),
        case("connections/used again after a stream", Together((stream, version, stream))),
        case("connections/used again after a refusal", Together((post("/api/chat", "x"), version))),
        case(
            "connections/used again after a body nobody reads",
            Together((send("POST", "/none", "@fill:1000@"), version)),
        ),
        case(
            "connections/used again after a known blob",
            Together((head("/api/blobs/sha256:@sha:nothing@"), version)),
        ),
        case("connections/pipelined", Together((version, tags, version), pipelined=True)),
        case(
            "connections/pipelined posts",
            Together(
                (post("/api/show", "{}"), post("/api/generate", _GENERATE), version), pipelined=True
            ),
        ),
        case("connections/closed on request", get("/api/version", ("Connection", "close"))),
        case(
            "connections/kept on request",
            Together((get("/api/version", ("Connection", "keep-alive")), version)),
        ),
        case(
            "connections/an upgrade nobody offers",
            get("/api/version", ("Connection", "Upgrade"), ("Upgrade", "websocket")),
        ),
        case(
            "connections/an upgrade to HTTP 2",
            get(
                "/api/version",
                ("Connection", "Upgrade, HTTP2-Settings"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
            ),
        ),
        case(
            "connections/half closed",
            Ask(target="/api/version", half_closes=True, patience_s=_PATIENCE_S),
        ),
        case(
            "connections/half closed after a body",
            Ask(
                method="POST",
                target="/api/show",
                body='{"model":"none"}',
                half_closes=True,
                patience_s=_PATIENCE_S,
            ),
        ),
    ]


def _versions() -> list[Case]:
    old = "HTTP/1.0"
    return [
        case("versions/1.0", Ask(target="/api/version", version=old)),
        case("versions/1.0 without Host", Ask(target="/api/version", version=old, host=None)),
        case(
            "versions/1.0, kept",
            Ask(target="/api/version", version=old, headers=(("Connection", "keep-alive"),)),
        ),
        case("versions/1.0, a long body", Ask(target="/api/tags", version=old, masks=("order",))),
        case("versions/1.0, HEAD", Ask(method="HEAD", target="/api/tags", version=old)),
        case(
            "versions/1.0, a stream",
            Ask(
                method="POST",
                target="/api/generate",
                body=f'{{"model":"@chat@","prompt":"x",{_FIXED}}}',
                version=old,
                masks=GENERATED,
            ),
        ),
        case("versions/1.0, not found", Ask(target="/none", version=old)),
        case("versions/absolute form", get("http://@host@/api/version")),
        case("versions/absolute form with a query", get("http://@host@/api/tags/?a=1")),
        case("versions/absolute form, POST", post("http://@host@/api/show", '{"model":"none"}')),
        case("versions/absolute form of a foreign host", get("http://gate.example/api/version")),
        case("versions/absolute form without a path", get("http://@host@")),
    ]


def _origins() -> list[Case]:
    origins = {
        "localhost": "http://localhost",
        "localhost with a port": "http://localhost:3000",
        "localhost, encrypted": "https://localhost:3000",
        "loopback": "http://127.0.0.1:8080",
        "unspecified": "http://0.0.0.0:80",
        "the address itself": "http://@host@",
        "an app": "app://obsidian.md",
        "a file": "file://",
        "tauri": "tauri://localhost",
        "an editor": "vscode-webview://abc",
        "foreign": "https://web.example",
        "null": "null",
        "a lookalike": "http://localhost.web.example",
        "a lookalike port": "http://localhost:3000.web.example",
        "IPv6 loopback": "http://[::1]:3000",
        "an extension": "chrome-extension://abc",
        "capitals": "HTTP://LOCALHOST",
        "empty": "",
    }
    return [
        case(f"origins/{who}", get("/api/version", ("Origin", origin), masks=("port",)))
        for who, origin in origins.items()
    ] + [
        case(
            "origins/a POST",
            post("/api/generate", _GENERATE, *_JSON, ("Origin", "http://localhost:3000")),
        ),
        case(
            "origins/a stream",
            post(
                "/api/generate",
                f'{{"model":"@chat@","prompt":"x",{_FIXED}}}',
                *_JSON,
                ("Origin", "http://localhost:3000"),
            ),
        ),
        case(
            "origins/a foreign POST",
            post("/api/generate", _GENERATE, *_JSON, ("Origin", "https://web.example")),
        ),
        case(
            "origins/a foreign POST, OpenAI's",
            post("/v1/chat/completions", _GENERATE, *_JSON, ("Origin", "https://web.example")),
        ),
        case("origins/a refusal", post("/api/chat", "x", *_JSON, ("Origin", "app://x"))),
        case("origins/not found", get("/none", ("Origin", "app://x"))),
        case("origins/wrong method", get("/api/generate", ("Origin", "app://x"))),
        case("origins/HEAD", head("/", ("Origin", "app://x"))),
        case("origins/foreign, not found", get("/none", ("Origin", "https://web.example"))),
        case("origins/a redirect", get("/api/tags/", ("Origin", "app://x"))),
        case("origins/twice", get("/", ("Origin", "app://x"), ("Origin", "https://web.example"))),
    ]


def _preflights() -> list[Case]:
    def preflight(
        name: str, origin: str, target: str = "/api/chat", *more: tuple[str, str]
    ) -> Case:
        asked = ("Access-Control-Request-Method", "POST")
        return case(
            f"preflights/{name}", send("OPTIONS", target, None, ("Origin", origin), asked, *more)
        )

    return [
        preflight("allowed", "http://localhost:3000"),
        preflight("allowed, an app", "app://x"),
        preflight(
            "allowed, with headers",
            "app://x",
            "/api/chat",
            ("Access-Control-Request-Headers", "content-type,x-api-key"),
        ),
        preflight("allowed, OpenAI's", "http://127.0.0.1:3000", "/v1/chat/completions"),
        preflight("allowed, unknown path", "http://localhost", "/none"),
        preflight("allowed, DELETE", "http://localhost", "/api/delete"),
        preflight(
            "allowed, a private network",
            "http://localhost",
            "/api/chat",
            ("Access-Control-Request-Private-Network", "true"),
        ),
        preflight("foreign", "https://web.example"),
        preflight("foreign, unknown path", "https://web.example", "/none"),
        preflight("the address itself", "http://@host@"),
        case(
            "preflights/without a method", send("OPTIONS", "/api/chat", None, ("Origin", "app://x"))
        ),
        case(
            "preflights/of a name",
            Ask(method="OPTIONS", target="/api/chat", host="localhost:@port@"),
        ),
        case(
            "preflights/of a name, foreign",
            Ask(method="OPTIONS", target="/api/chat", host="web.example"),
        ),
    ]


def _hosts() -> list[Case]:
    hosts = {
        "localhost": "localhost",
        "localhost with a port": "localhost:@port@",
        "localhost in capitals": "LOCALHOST",
        "loopback": "127.0.0.1",
        "another loopback": "127.1.2.3:80",
        "IPv6 loopback": "[::1]",
        "IPv6 loopback with a port": "[::1]:@port@",
        "a private address": "192.168.1.5:11434",
        "a public address": "8.8.8.8",
        "unspecified": "0.0.0.0",
        "a name below localhost": "a.localhost",
        "a local name": "foo.local",
        "an internal name": "foo.internal",
        "a lan name": "foo.lan",
        "a foreign name": "gate.example:8080",
        "a single label": "ollama:11434",
        "empty": "",
        "a trailing dot": "localhost.",
        "a lookalike": "localhost.web.example",
    }
    ask = {who: Ask(target="/api/version", host=host) for who, host in hosts.items()}
    return [case(f"hosts/{who}", one) for who, one in ask.items()] + [
        case("hosts/foreign, not found", Ask(target="/none", host="gate.example")),
        case("hosts/foreign, wrong method", Ask(target="/api/chat", host="gate.example")),
        case(
            "hosts/foreign, an inference",
            Ask(method="POST", target="/api/generate", body=_GENERATE, host="gate.example"),
        ),
        case(
            "hosts/foreign, a blob",
            Ask(
                method="POST",
                target="/api/blobs/sha256:@sha:x@",
                body="x",
                host="gate.example",
                waits_for_100=True,
            ),
        ),
        case(
            "hosts/foreign with its own origin",
            Ask(
                target="/api/version",
                host="gate.example",
                headers=(("Origin", "http://gate.example"),),
            ),
        ),
        case(
            "hosts/forwarded for another",
            get(
                "/api/version",
                ("X-Forwarded-Host", "gate.example"),
                ("Forwarded", "host=gate.example"),
            ),
        ),
    ]


def _sizes() -> list[Case]:
    return [
        case(
            "sizes/a picture of 1.5 MB",
            post(
                "/api/generate",
                f'{{"model":"@vision@","prompt":"x","images":["@png:600@"],"stream":false,{_FIXED}}}',
            ),
        ),
        case(
            "sizes/5 MB before an unknown model",
            post("/api/generate", '{"images":["@fill:5000000@"],"model":"none"}'),
        ),
        case(
            "sizes/5 MB after an unknown model",
            post("/api/chat", '{"model":"none","pad":"@fill:5000000@"}'),
        ),
        case(
            "sizes/5 MB, OpenAI's",
            post(
                "/v1/chat/completions",
                '{"pad":"@fill:5000000@","model":"none","messages":[{"role":"user","content":"x"}]}',
            ),
        ),
        case("sizes/2 MB to show", post("/api/show", '{"pad":"@fill:2000000@","model":"none"}')),
        case("sizes/2 MB to nobody", send("POST", "/none", "@fill:2000000@")),
        case("sizes/a header of 100 KB", get("/api/version", ("X-Large", "@fill:100000@"))),
        case("sizes/a header of 900 KB", get("/api/version", ("X-Large", "@fill:900000@"))),
        case("sizes/a header of 2 MB", get("/api/version", ("X-Large", "@fill:2000000@"))),
        case("sizes/300 headers", get("/api/version", *((f"X-Many-{i}", "x") for i in range(300)))),
        case("sizes/a target of 20 KB", get("/api/version?x=@fill:20000@")),
        case("sizes/an unknown target of 20 KB", get("/@fill:20000@")),
        case(
            "sizes/deep nesting",
            post("/api/generate", '{"model":"none","x":' + "[" * 9000 + "]" * 9000 + "}"),
        ),
        case(
            "sizes/too deep nesting",
            post("/api/generate", '{"model":"none","x":' + "[" * 11000 + "]" * 11000 + "}"),
        ),
    ]


def _leaving() -> list[Case]:
    still = post("/api/generate", _GENERATE)
    chat = (
        '{"model":"@chat@","messages":[{"role":"user","content":"x"}],"stream":true,'
        '"max_tokens":400,"seed":1,"temperature":0}'
    )
    long = {
        "generate": ("/api/generate", _ENDLESS),
        "chat": (
            "/api/chat",
            '{"model":"@chat@","messages":[{"role":"user","content":"x"}],"options":{"seed":1,"temperature":0,"num_predict":400}}',
        ),
        "OpenAI's chat": ("/v1/chat/completions", chat),
        "Anthropic's": ("/v1/messages", chat),
    }
    streams = [
        case(
            f"leaving/in a stream, {how}",
            Ask(method="POST", target=target, body=body, headers=_JSON, leaves_after=2),
            still,
        )
        for how, (target, body) in long.items()
    ]
    return [
        *streams,
        case(
            "leaving/at once, streaming",
            Ask(
                method="POST", target="/api/generate", body=_ENDLESS, headers=_JSON, leaves_after=-1
            ),
            still,
        ),
        case(
            "leaving/at once, whole",
            Ask(
                method="POST",
                target="/api/generate",
                body=_ENDLESS.replace('"prompt"', '"stream":false,"prompt"'),
                headers=_JSON,
                leaves_after=-1,
            ),
            still,
        ),
        case(
            "leaving/while it loads",
            Ask(
                method="POST", target="/api/generate", body=_ENDLESS, headers=_JSON, leaves_after=-1
            ),
            still,
            empty=True,
        ),
        case(
            "leaving/half closed in a request for a model",
            Ask(
                method="POST",
                target="/api/generate",
                body=_GENERATE,
                headers=_JSON,
                half_closes=True,
                patience_s=_PATIENCE_S,
                masks=GENERATED,
            ),
            still,
        ),
        case(
            "leaving/half closed in a stream",
            Ask(
                method="POST",
                target="/api/generate",
                body=_ENDLESS,
                headers=_JSON,
                half_closes=True,
                patience_s=_PATIENCE_S,
                leaves_after=1,
            ),
            still,
        ),
        case(
            "leaving/in the middle of a body",
            Ask(
                verbatim=_CUT_SHORT,
                leaves_after=-1,
            ),
            still,
        ),
        case(
            "leaving/half closed in the middle of a body",
            Ask(
                verbatim=_CUT_SHORT,
                half_closes=True,
                patience_s=_PATIENCE_S,
            ),
            still,
        ),
    ]


def _malformed() -> list[Case]:
    """What is not HTTP: Go's server answers 400 with a word of why, or hangs up."""
    end = "\r\nHost: @host@\r\n\r\n"
    texts = {
        "no version": "GET /\r\n\r\n",
        "an unknown version": f"GET / HTTP/3.7{end}",
        "HTTP 2": f"GET / HTTP/2.0{end}",
        "not HTTP": "hello\r\n\r\n",
        "a space in the target": f"GET /a b HTTP/1.1{end}",
        "no Host": "GET / HTTP/1.1\r\n\r\n",
        "two Hosts": f"{_GET}Host: @host@\r\n\r\n",
        "a bad Host": "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "a header without a colon": f"{_GET}nonsense\r\n\r\n",
        "a header with a space before the colon": f"{_GET}A : b\r\n\r\n",
        "a header with a control character": f"{_GET}A: \x01\r\n\r\n",
        "a folded header": f"{_GET}A: b\r\n c\r\n\r\n",
        "bare line feeds": "GET /api/version HTTP/1.1\nHost: @host@\n\n",
        "an empty line first": "\r\nGET /api/version HTTP/1.1\r\nHost: @host@\r\n\r\n",
        "a bad length": f"{_POST}Content-Length: x\r\n\r\n",
        "a negative length": f"{_POST}Content-Length: -1\r\n\r\n",
        "a length twice": f"{_POST}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}",
        "two lengths": f"{_POST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} ",
        "a length and chunks": f"{_POST}Content-Length: 7\r\n" + _CHUNKED_BODY,
        "an unknown transfer encoding": f"{_POST}Transfer-Encoding: gzip\r\n\r\n",
        "a bad chunk": f"{_CHUNKS}\r\nzz\r\n{{}}\r\n0\r\n\r\n",
        "a chunk's extension": f"{_CHUNKS}\r\n2;a=b\r\n{{}}\r\n0\r\n\r\n",
        "trailers": f"{_CHUNKS}Trailer: A\r\n\r\n2\r\n{{}}\r\n0\r\nA: b\r\n\r\n",
        "an unknown expectation": f"{_POST}Content-Length: 2\r\nExpect: tea\r\n\r\n{{}}",
        "CONNECT": "CONNECT @host@ HTTP/1.1\r\nHost: @host@\r\n\r\n",
    }
    return [case(f"malformed/{how}", Ask(verbatim=text)) for how, text in texts.items()]


def _headers() -> list[Case]:
    """Headers of a request that must change nothing on their way, or in what comes back."""
    ask = '{"model":"none"}'
    return [
        case(
            "headers/what a browser accepts",
            get("/api/tags", ("Accept-Encoding", "gzip, deflate, br, zstd"), masks=("order",)),
        ),
        case("headers/a language", get("/", ("Accept-Language", "de"))),
        case("headers/JSON alone", get("/", ("Accept", "application/json"))),
        case("headers/a range", get("/api/version", ("Range", "bytes=0-3"))),
        case("headers/a condition", get("/api/version", ("If-None-Match", "*"))),
        case(
            "headers/a date",
            get("/api/version", ("If-Modified-Since", "Mon, 01 Jan 2040 00:00:00 GMT")),
        ),
        case(
            "headers/another method",
            post("/api/show", ask, *_JSON, ("X-HTTP-Method-Override", "GET")),
        ),
        case(
            "headers/an authorization",
            get("/api/tags", ("Authorization", "Bearer x"), masks=("order",)),
        ),
        case("headers/a cookie", get("/api/version", ("Cookie", "a=b"))),
        case("headers/letters beyond ASCII", get("/api/version", ("X-Name", "\u00fcber"))),
        case(
            "headers/an expectation where nobody waits",
            Ask(method="POST", target="/api/show", body=ask, waits_for_100=True),
        ),
        case(
            "headers/an expectation of a generation",
            Ask(method="POST", target="/api/generate", body=ask, waits_for_100=True),
        ),
        case(
            "headers/an expectation of a chat",
            Ask(
                method="POST",
                target="/v1/chat/completions",
                body='{"model":"none","messages":[{"role":"user","content":"x"}]}',
                waits_for_100=True,
            ),
        ),
        case(
            "headers/an expectation on an unknown path",
            Ask(method="POST", target="/none", body=ask, waits_for_100=True),
        ),
        case(
            "headers/an expectation and a wrong method",
            Ask(method="PUT", target="/api/tags", body=ask, waits_for_100=True),
        ),
        case("headers/GET with a body", send("GET", "/api/tags", "{}", masks=("order",))),
        case("headers/HEAD with a body", send("HEAD", "/api/tags", "{}")),
    ]


CASES = _cases()
