"""Every route and what is next to one: methods, slashes, encodings, queries."""

from tests.conformance.case import Case, case, get, head, post, send

_DIGEST = "sha256:@sha:nothing@"
_NATIVE = ("generate", "chat", "embed", "embeddings")
_POSTED = (
    *(f"/api/{name}" for name in (*_NATIVE, "show", "pull", "push", "create", "copy", "me")),
    "/api/signout",
    *(f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses")),
    "/v1/messages",
    "/v1/audio/transcriptions",
)
_READ = ("/", "/api/version", "/api/tags", "/api/ps", "/api/status", "/v1/models")
_LISTED = ("expires", "order")


def _cases() -> list[Case]:
    return [*_reading(), *_methods(), *_options(), *_spellings(), *_unknown()]


def _reading() -> list[Case]:
    return [
        *(case(f"routes/GET {path}", get(path, masks=_LISTED)) for path in _READ),
        *(case(f"routes/HEAD {path}", head(path)) for path in (*_READ, "/v1/models/@chat@")),
        case("routes/GET a model", get("/v1/models/@chat@")),
        case("routes/GET a model in capitals", get("/v1/models/@chat_upper@")),
        case("routes/GET an unknown model", get("/v1/models/no-such-model")),
        case("routes/GET a model with a slash", get("/v1/models/library/@chat@")),
        case("routes/GET a model with an encoded slash", get("/v1/models/library%2F@chat@")),
        case("routes/GET a model with an encoded colon", get("/v1/models/@chat_percent@")),
        case("routes/GET no model", get("/v1/models/")),
        case(
            "routes/GET recommendations",
            get("/api/experimental/model-recommendations"),
        ),
        case("routes/HEAD a blob nobody has", head(f"/api/blobs/{_DIGEST}")),
        case("routes/HEAD a blob with a bad digest", head("/api/blobs/sha256:abc")),
        case("routes/show", post("/api/show", '{"model":"@chat@"}', masks=())),
        case("routes/show by the old field", post("/api/show", '{"name":"@chat@"}', masks=())),
        case(
            "routes/show in full",
            post("/api/show", '{"model":"@chat@","verbose":true}', masks=()),
        ),
        case("routes/show an embedder", post("/api/show", '{"model":"@embed@"}', masks=())),
        case("routes/show a stub", post("/api/show", '{"model":"@stub@"}', masks=())),
        case(
            "routes/show to an editor",
            post(
                "/api/show",
                '{"model":"@chat@"}',
                ("User-Agent", "GitHubCopilotChat/0.30"),
                masks=(),
            ),
        ),
    ]


def _methods() -> list[Case]:
    return [
        *(case(f"methods/GET {path}", get(path)) for path in _POSTED),
        *(case(f"methods/HEAD {path}", head(path)) for path in ("/api/generate", "/api/chat")),
        *(case(f"methods/POST {path}", post(path, "{}")) for path in _READ),
        *(case(f"methods/PUT {path}", send("PUT", path, "{}")) for path in ("/", "/api/tags")),
        case("methods/PATCH generate", send("PATCH", "/api/generate", "{}")),
        case("methods/PUT chat", send("PUT", "/api/chat", '{"model":"@chat@"}')),
        case("methods/DELETE tags", send("DELETE", "/api/tags")),
        case("methods/GET delete", get("/api/delete")),
        case("methods/POST delete", post("/api/delete", '{"model":"no-such-model"}')),
        case("methods/GET a blob", get(f"/api/blobs/{_DIGEST}")),
        case("methods/DELETE a model of OpenAI's", send("DELETE", "/v1/models/@chat@")),
        case("methods/an unknown method", send("BREW", "/api/tags")),
        case("methods/TRACE", send("TRACE", "/")),
        case("methods/a method in small letters", send("get", "/api/version")),
    ]


def _options() -> list[Case]:
    paths = ("/", "/api/tags", "/api/generate", "/v1/chat/completions", "/no/such/path")
    return [case(f"methods/OPTIONS {path}", send("OPTIONS", path)) for path in paths] + [
        case("methods/OPTIONS *", send("OPTIONS", "*")),
    ]


def _spellings() -> list[Case]:
    ask = '{"model":"@chat@"}'
    return [
        case("spellings/slash after tags", get("/api/tags/")),
        case("spellings/slash after tags with a query", get("/api/tags/?a=1&b=%20c")),
        case("spellings/slash after version, HEAD", head("/api/version/")),
        case("spellings/slash after generate", post("/api/generate/", ask)),
        case("spellings/slash after chat, OpenAI's", post("/v1/chat/completions/", ask)),
        case("spellings/slash after delete", send("DELETE", "/api/delete/", ask)),
        case("spellings/slash after an unknown path", get("/no/such/path/")),
        case("spellings/double slash", get("//api/tags")),
        case("spellings/double slash inside", get("/api//tags")),
        case("spellings/double slash, POST", post("//api/generate", ask)),
        case("spellings/double slash inside, POST", post("/api//chat", ask)),
        case("spellings/a dot segment", get("/api/./tags")),
        case("spellings/two dot segments", get("/api/x/../tags")),
        case("spellings/two dot segments, POST", post("/api/x/../generate", ask)),
        case("spellings/an encoded letter", get("/api/%74ags", masks=_LISTED)),
        case("spellings/an encoded letter, POST", post("/api/%67enerate", '{"model":"none"}')),
        case("spellings/an encoded slash", get("/api%2Ftags", masks=_LISTED)),
        case("spellings/a bad escape", get("/api/%zz")),
        case("spellings/an encoded zero", get("/api/tags%00")),
        case("spellings/a raw letter of UTF-8", get("/api/t\u00e4gs")),
        case("spellings/capitals", get("/API/TAGS")),
        case("spellings/a query", get("/api/version?a=1&a=2&b=%2F+%20")),
        case("spellings/a bare question mark", get("/api/version?")),
        case("spellings/a query with a question mark", get("/api/version?a?b")),
        case("spellings/a query with a semicolon", get("/api/version?a;b")),
        case("spellings/a query, POST", post("/api/show?ts=1700000000", ask, masks=())),
        case("spellings/a bare question mark after a slash", get("/api/tags/?")),
        case("spellings/a fragment", get("/api/version#x")),
    ]


def _unknown() -> list[Case]:
    return [
        case("unknown/GET", get("/no/such/path")),
        case("unknown/HEAD", head("/no/such/path")),
        case("unknown/POST", post("/api/no-such-route", "{}")),
        case("unknown/DELETE with a body", send("DELETE", "/api/no-such-route", "{}")),
        case("unknown/of OpenAI's", post("/v1/images/generations", '{"model":"@chat@"}')),
        case("unknown/count tokens", post("/v1/messages/count_tokens", '{"model":"@chat@"}')),
        case("unknown/v1 alone", get("/v1")),
        case("unknown/api alone", get("/api")),
        case("unknown/favicon", get("/favicon.ico")),
        case("unknown/metrics", get("/metrics")),
        case("unknown/blobs without a digest", send("POST", "/api/blobs/", "x")),
    ]


CASES = _cases()
