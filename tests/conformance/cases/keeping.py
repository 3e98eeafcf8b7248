"""What keeps and changes models: blobs, create, copy, delete, pull, push, accounts.

Both ways lead to the same Ollama: each side works on names and blobs of its own, which are
masked, and takes away what it has made.
"""

from typing import Any

from tests.conformance.case import OWN, Ask, Case, case, get, head, post, send

_DELETE_MINE = Ask(method="DELETE", target="/api/delete", body='{"model":"@mine@"}')
_COPY_MINE = Ask(
    method="POST",
    target="/api/copy",
    body='{"source":"@chat@","destination":"@mine@"}',
    stage=True,
)
_COPIED = (*OWN, "modified")
_NOWHERE = "127.0.0.1:1/library/none"
_JSON = (("Content-Type", "application/json"),)


def _cases() -> list[Case]:
    return [*_blobs(), *_copies(), *_creates(), *_transfers(), *_accounts()]


def _blobs() -> list[Case]:
    """A blob's text names the run and the side, so that each side uploads one nobody has."""

    def upload(what: str, **more: Any) -> Ask:
        given: dict[str, Any] = {"body": f"@own_text:{what}@", **more}
        target = f"/api/blobs/sha256:@own_sha:{what}@"
        return Ask(method="POST", target=target, masks=("digest",), **given)

    def exists(what: str) -> Ask:
        return head(f"/api/blobs/sha256:@own_sha:{what}@")

    wrong = "/api/blobs/sha256:@sha:another@"
    return [
        case("blobs/new", exists("a"), upload("a"), exists("a")),
        case("blobs/known already", upload("b"), upload("b")),
        case(
            "blobs/in chunks",
            upload("c", body=None, pieces=("@own_first:c@", "@own_rest:c@")),
            exists("c"),
        ),
        case("blobs/new, asking first", upload("d", waits_for_100=True), exists("d")),
        case("blobs/known, asking first", upload("e"), upload("e", waits_for_100=True)),
        case(
            "blobs/in chunks, asking first",
            upload("f", body=None, pieces=("@own_text:f@",), waits_for_100=True),
            exists("f"),
        ),
        case("blobs/large", upload("large"), exists("large")),
        case("blobs/wrong digest", send("POST", wrong, "x"), head(wrong)),
        case(
            "blobs/wrong digest, asking first",
            Ask(method="POST", target=wrong, body="x", waits_for_100=True),
        ),
        case("blobs/bad digest", send("POST", "/api/blobs/abc", "x")),
        case("blobs/bad digest, HEAD", head("/api/blobs/abc")),
        case("blobs/short digest", send("POST", "/api/blobs/sha256:abc", "x")),
        case("blobs/digest in capitals", head("/api/blobs/SHA256:@sha:nothing@")),
        case("blobs/digest with a dash", head("/api/blobs/sha256-@sha:nothing@")),
        case("blobs/empty", send("POST", "/api/blobs/sha256:@sha:@", "")),
        case("blobs/empty, without a body", send("POST", "/api/blobs/sha256:@sha:@")),
        case(
            "blobs/encoded colon",
            head("/api/blobs/sha256%3A@sha:nothing@"),
        ),
    ]


def _copies() -> list[Case]:
    def copied(name: str, *asks: Ask) -> Case:
        return case(f"copies/{name}", _COPY_MINE, *asks, afterwards=(_DELETE_MINE,))

    ask = '"prompt":"x","stream":false,"options":{"seed":1,"temperature":0,"num_predict":3}'
    return [
        case(
            "copies/copy",
            send("POST", "/api/copy", '{"source":"@chat@","destination":"@mine@"}'),
            afterwards=(_DELETE_MINE,),
        ),
        copied("show", post("/api/show", '{"model":"@mine@"}', masks=_COPIED)),
        copied("listed", get("/api/tags", masks=(*_COPIED, "order"))),
        copied("listed, OpenAI's", get("/v1/models/@mine@", masks=(*OWN, "created"))),
        copied(
            "used",
            post(
                "/api/generate", f'{{"model":"@mine@",{ask}}}', masks=("created", "durations", *OWN)
            ),
        ),
        copied(
            "delete",
            send("DELETE", "/api/delete", '{"model":"@mine@"}'),
            post("/api/show", '{"model":"@mine@"}', masks=OWN),
        ),
        copied("delete by the old field", send("DELETE", "/api/delete", '{"name":"@mine@"}')),
        copied("delete in capitals", send("DELETE", "/api/delete", '{"model":"@mine_upper@"}')),
        copied(
            "delete twice",
            send("DELETE", "/api/delete", '{"model":"@mine@"}'),
            send("DELETE", "/api/delete", '{"model":"@mine@"}', masks=OWN),
        ),
        copied(
            "delete in chunks",
            Ask(method="DELETE", target="/api/delete", pieces=('{"model":', '"@mine@"}')),
        ),
        copied(
            "copy over itself",
            send("POST", "/api/copy", '{"source":"@mine@","destination":"@mine@"}'),
        ),
        copied(
            "replaced by another",
            send("POST", "/api/copy", '{"source":"@other@","destination":"@mine@"}'),
            post("/api/show", '{"model":"@mine@"}', masks=_COPIED),
        ),
        case(
            "copies/of nothing",
            send("POST", "/api/copy", '{"source":"none","destination":"@mine@"}', masks=OWN),
        ),
        case("copies/no source", send("POST", "/api/copy", '{"destination":"@mine@"}', masks=OWN)),
        case("copies/no destination", send("POST", "/api/copy", '{"source":"@chat@"}')),
        case(
            "copies/to an invalid name",
            send("POST", "/api/copy", '{"source":"@chat@","destination":"a b"}'),
        ),
        case(
            "copies/from a cloud name",
            send("POST", "/api/copy", '{"source":"x:cloud","destination":"@mine@"}', masks=OWN),
            afterwards=(_DELETE_MINE,),
        ),
        case("copies/no JSON", send("POST", "/api/copy", "x")),
        case("copies/empty body", send("POST", "/api/copy", "")),
        case("copies/delete without a body", send("DELETE", "/api/delete")),
        case("copies/delete nothing", send("DELETE", "/api/delete", "{}")),
        case("copies/delete an unknown model", send("DELETE", "/api/delete", '{"model":"none"}')),
        case("copies/delete an invalid name", send("DELETE", "/api/delete", '{"model":"a b"}')),
    ]


def _creates() -> list[Case]:
    def create(name: str, body: str, *then: Ask) -> Case:
        made = post("/api/create", body, *_JSON, masks=_COPIED)
        return case(f"create/{name}", made, *then, afterwards=(_DELETE_MINE,))

    # Ollama writes parameters in the order of a Go map, that is in any.
    show = post("/api/show", '{"model":"@mine@"}', masks=(*_COPIED, "parameters"))
    return [
        create(
            "from another",
            '{"model":"@mine@","from":"@chat@","system":"Be brief.","stream":false}',
            show,
        ),
        create(
            "from another, streaming",
            '{"model":"@mine@","from":"@chat@","system":"Be brief."}',
            show,
        ),
        create(
            "with parameters",
            '{"model":"@mine@","from":"@chat@","parameters":{"num_ctx":2048,"stop":["x"]},"stream":false}',
            show,
        ),
        create(
            "with a template, a licence and messages",
            '{"model":"@mine@","from":"@chat@","template":"{{ .Prompt }}","license":"free",'
            '"messages":[{"role":"user","content":"x"}],"stream":false}',
            show,
        ),
        create("by the old field", '{"name":"@mine@","from":"@chat@","stream":false}', show),
        create(
            "twice",
            '{"model":"@mine@","from":"@chat@","stream":false}',
            post(
                "/api/create",
                '{"model":"@mine@","from":"@chat@","stream":false}',
                *_JSON,
                masks=_COPIED,
            ),
        ),
        create("from nothing", '{"model":"@mine@"}'),
        create("from nothing, not streaming", '{"model":"@mine@","stream":false}'),
        create(
            "a broken template",
            '{"model":"@mine@","from":"@chat@","template":"{{ .X","stream":false}',
        ),
        create(
            "a file nobody has",
            '{"model":"@mine@","files":{"a.gguf":"sha256:@sha:nothing@"},"stream":false}',
        ),
        create("a file with a bad digest", '{"model":"@mine@","files":{"a.gguf":"abc"}}'),
        create("a file outside", '{"model":"@mine@","files":{"../a":"sha256:@sha:nothing@"}}'),
        create(
            "an unknown quantization",
            '{"model":"@mine@","from":"@chat@","quantize":"q1","stream":false}',
        ),
        create("an invalid name", '{"model":"a b","from":"@chat@"}'),
        create("no name", '{"from":"@chat@"}'),
        create("no JSON", "x"),
        create("an empty body", ""),
    ]


def _transfers() -> list[Case]:
    """Nothing listens where these point to; what fails is told in a stream or whole."""
    return [
        *(
            case(f"transfers/{route}: {what}", post(f"/api/{route}", body, *_JSON, masks=OWN))
            for route in ("pull", "push")
            for what, body in (
                ("nobody there, streaming", f'{{"model":"{_NOWHERE}","insecure":true}}'),
                ("nobody there", f'{{"model":"{_NOWHERE}","insecure":true,"stream":false}}'),
                ("by the old field", f'{{"name":"{_NOWHERE}","insecure":true,"stream":false}}'),
                ("no name", "{}"),
                ("an invalid name", '{"model":"a b","stream":false}'),
                ("an invalid name, streaming", '{"model":"a b"}'),
                ("no JSON", "x"),
                ("an empty body", ""),
                ("not encrypted", f'{{"model":"http://{_NOWHERE}","stream":false}}'),
            )
        ),
        case(
            "transfers/push what is not there",
            post(
                "/api/push", '{"model":"127.0.0.1:1/nobody/none","stream":false}', *_JSON, masks=()
            ),
        ),
    ]


def _accounts() -> list[Case]:
    return [
        case("account/status", get("/api/status")),
        case("account/web search without a query", post("/api/experimental/web_search", "")),
        case("account/web fetch without a body", post("/api/experimental/web_fetch", "")),
        case("account/web search, no JSON", post("/api/experimental/web_search", "x")),
        case("account/keys with a bad key", send("GET", "/api/user/keys/abc")),
    ]


CASES = _cases()
