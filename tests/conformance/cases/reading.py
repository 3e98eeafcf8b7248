"""How a request body is read: JSON as Go's `encoding/json` reads it, and the names of models."""

from tests.conformance.case import GENERATED, Ask, Case, case, get, post

_FIXED = '"options":{"seed":1,"temperature":0,"num_predict":4}'
_ASK = f'"prompt":"Say one word.","stream":false,{_FIXED}'
_EXPIRING = ("expires",)


def _generate(name: str, body: str, *headers: tuple[str, str]) -> Case:
    return case(f"reading/{name}", post("/api/generate", body, *headers))


def _cases() -> list[Case]:
    return [*_keys(), *_values(), *_frames(), *_options(), *_names(), *_keep_alive()]


def _keys() -> list[Case]:
    return [
        _generate("keys in capitals", f'{{"MODEL":"@chat@",{_ASK}}}'),
        _generate(
            "keys in mixed case", f'{{"moDel":"@chat@","Prompt":"x","STREAM":false,{_FIXED}}}'
        ),
        _generate("the last of two models", f'{{"model":"none","model":"@chat@",{_ASK}}}'),
        _generate("the last of two models, unknown", f'{{"model":"@chat@","model":"none",{_ASK}}}'),
        _generate("the last in another case", f'{{"model":"none",{_ASK},"MODEL":"@chat@"}}'),
        _generate("the last of two streams", f'{{"model":"@chat@","stream":true,{_ASK}}}'),
        _generate("a key escaped", f'{{"\\u006dodel":"@chat@",{_ASK}}}'),
        _generate(
            "a long s for an s",
            f'{{"model":"@chat@","prompt":"x","\u017ftream":false,{_FIXED}}}',
        ),
        _generate("an unknown key", f'{{"model":"@chat@","surprise":[{{}}],{_ASK}}}'),
        _generate("white space all over", f'\r\n\t {{ "model" :\n"@chat@" , {_ASK} }} \n'),
    ]


def _values() -> list[Case]:
    return [
        _generate(
            "nulls", f'{{"model":"@chat@","system":null,"images":null,"format":null,{_ASK}}}'
        ),
        _generate("a null after a value", f'{{"model":"@chat@","model":null,{_ASK}}}'),
        _generate("a null stream", f'{{"model":"@chat@","prompt":"x","stream":null,{_FIXED}}}'),
        _generate("null alone", "null"),
        _generate(
            "surrogates", f'{{"model":"@chat@","prompt":"\\ud83d\\ude00","stream":false,{_FIXED}}}'
        ),
        _generate(
            "half a surrogate", f'{{"model":"@chat@","prompt":"\\ud83d","stream":false,{_FIXED}}}'
        ),
        _generate(
            "less and greater", f'{{"model":"@chat@","prompt":"<&>","stream":false,{_FIXED}}}'
        ),
        _generate("a name with less and greater", '{"model":"<&>","prompt":"x"}'),
        case(
            "reading/bytes that are not UTF-8",
            post(
                "/api/generate",
                b'{"model":"@chat@","prompt":"\xff\xfe","stream":false,' + _FIXED.encode() + b"}",
            ),
        ),
        case("reading/a byte order mark", post("/api/generate", b'\xef\xbb\xbf{"model":"@chat@"}')),
    ]


def _frames() -> list[Case]:
    body = f'{{"model":"@chat@",{_ASK}}}'
    return [
        _generate("garbage after it", body + " and more"),
        _generate("a second object after it", body + '{"model":"none"}'),
        _generate(
            "a form's content type", body, ("Content-Type", "application/x-www-form-urlencoded")
        ),
        _generate("a plain content type", body, ("Content-Type", "text/plain")),
        _generate("two content types", body, ("Content-Type", "a/b"), ("Content-Type", "c/d")),
        case(
            "reading/no content type",
            Ask(method="POST", target="/api/generate", body=body, masks=GENERATED),
        ),
        case(
            "reading/in chunks",
            Ask(
                method="POST",
                target="/api/generate",
                pieces=('{"mod', 'el":"@chat@",', _ASK, "}"),
                masks=GENERATED,
            ),
        ),
        case(
            "reading/in chunks, OpenAI's",
            Ask(
                method="POST",
                target="/v1/chat/completions",
                pieces=(
                    '{"model":"@chat@","seed":1,"temperature":0,"max_tokens":4,',
                    '"messages":[{"role":"user","content":"x"}]}',
                ),
                masks=GENERATED,
            ),
        ),
        _generate("gzip, which is not read", body, ("Content-Encoding", "gzip")),
    ]


def _options() -> list[Case]:
    def with_options(options: str) -> str:
        return f'{{"model":"@chat@","prompt":"x","stream":false,{options}}}'

    return [
        _generate(
            "options twice are one",
            with_options(
                '"options":{"num_predict":2,"seed":1,"temperature":0},"options":{"temperature":0}'
            ),
        ),
        _generate(
            "an option twice",
            with_options('"options":{"num_predict":9,"num_predict":2,"seed":1,"temperature":0}'),
        ),
        _generate(
            "an option in capitals",
            with_options('"options":{"NUM_PREDICT":1,"num_predict":3,"seed":1,"temperature":0}'),
        ),
        _generate(
            "an unknown option",
            with_options('"options":{"no_such":1,"num_predict":2,"seed":1,"temperature":0}'),
        ),
        _generate(
            "an integer with a fraction",
            with_options('"options":{"num_predict":2.0,"seed":1,"temperature":0}'),
        ),
        _generate(
            "an integer with a real fraction",
            with_options('"options":{"num_predict":2.7,"seed":1,"temperature":0}'),
        ),
        _generate(
            "an option of null",
            with_options('"options":{"seed":1,"top_p":null,"temperature":0,"num_predict":2}'),
        ),
        _generate(
            "stop as one text",
            with_options('"options":{"stop":"x","num_predict":2,"seed":1,"temperature":0}'),
        ),
        _generate(
            "stop as texts",
            with_options('"options":{"stop":["x"],"num_predict":2,"seed":1,"temperature":0}'),
        ),
        _generate(
            "options of null",
            with_options('"options":null,"options":{"num_predict":2,"seed":1,"temperature":0}'),
        ),
    ]


def _names() -> list[Case]:
    spelled = {
        "as listed": "@chat@",
        "in capitals": "@chat_upper@",
        "with a namespace": "library/@chat@",
        "with a host": "registry.ollama.ai/library/@chat@",
        "with a scheme": "https://registry.ollama.ai/library/@chat@",
        "with another scheme": "http://registry.ollama.ai/library/@chat@",
        "with white space": "  @chat@\\n",
        "forced local": "@chat@:local",
        "local in capitals": "@chat@:LOCAL",
        "of another namespace": "nobody/@chat@",
        "with a digest": "@chat@@sha256:abc",
        "without a tag": "@chat_model@",
        "with an empty tag": "@chat_model@:",
        "with an empty namespace": "/@chat@",
        "with a bad letter": "@chat@!",
        "of one dot": ".",
        "of 100 letters": "@fill:100@",
        "of dashes": "-x-",
    }
    native = [
        case(f"names/{how}", post("/api/generate", f'{{"model":"{name}",{_ASK}}}'))
        for how, name in spelled.items()
    ]
    shown = [
        case(f"names/show {how}", post("/api/show", f'{{"model":"{spelled[how]}"}}', masks=()))
        for how in ("in capitals", "with a host", "with a digest", "forced local")
    ]
    return (
        native
        + shown
        + [
            case(
                "names/embed in capitals",
                post("/api/embed", '{"model":"@embed_upper@","input":"x"}'),
            ),
            case(
                "names/embeddings in capitals",
                post("/api/embeddings", '{"model":"@embed_upper@","prompt":"x"}'),
            ),
            case(
                "names/OpenAI's in capitals",
                post(
                    "/v1/chat/completions",
                    '{"model":"@chat_upper@","seed":1,"temperature":0,"max_tokens":3,'
                    '"messages":[{"role":"user","content":"x"}]}',
                ),
            ),
        ]
    )


def _keep_alive() -> list[Case]:
    """Each form, then `/api/ps`: when the model goes must be what its client was promised."""
    lasting = {
        "a number": "120",
        "a fraction": "90.5",
        "a large number": "86400",
        "a negative number": "-1",
        "a negative fraction": "-0.5",
        "minutes": '"2m"',
        "hours and minutes": '"1h30m"',
        "a compound with a fraction": '"1.5h10s"',
        "milliseconds": '"300000ms"',
        "microseconds": '"400000000us"',
        "microseconds with a micro sign": '"400000000\u00b5s"',
        "a plus sign": '"+3m"',
        "negative text": '"-1m"',
        "null": "null",
    }
    watched = [
        case(
            f"keep_alive/{how}",
            post("/api/generate", f'{{"model":"@chat@","keep_alive":{value}}}'),
            get("/api/ps", masks=_EXPIRING),
            empty=True,
        )
        for how, value in lasting.items()
    ]
    refused = {
        "text without a unit": '"300"',
        "negative text without a unit": '"-1"',
        "empty text": '""',
        "an unknown unit": '"5x"',
        "letters that Go escapes": '"<5>&"',
        "a day": '"1d"',
        "a boolean": "true",
        "a list": "[1]",
        "an object": '{"a":1}',
        "too large a duration": '"9999999h"',
        "too large a number": "1e400",
    }
    return (
        watched
        + [
            case(
                f"keep_alive/{how}",
                post("/api/generate", f'{{"model":"@chat@","keep_alive":{value}}}'),
            )
            for how, value in refused.items()
        ]
        + [
            case(
                f"keep_alive/refused by {path}",
                post(path, '{"model":"@chat@","keep_alive":"5"}'),
            )
            for path in ("/api/chat", "/api/embed", "/api/embeddings")
        ]
        + [
            case(
                "keep_alive/with a prompt",
                post("/api/generate", f'{{"model":"@chat@","keep_alive":"7m",{_ASK}}}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/first in the body",
                post("/api/generate", f'{{"keep_alive":"7m","model":"@chat@",{_ASK}}}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/twice, in two cases",
                post(
                    "/api/generate", f'{{"keep_alive":1,"model":"@chat@",{_ASK},"Keep_Alive":"9m"}}'
                ),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/alone in a chat",
                post("/api/chat", '{"model":"@chat@","keep_alive":"8m"}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/of an embedder",
                post("/api/embed", '{"model":"@embed@","input":"x","keep_alive":"6m"}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/of an embedder, old route",
                post("/api/embeddings", '{"model":"@embed@","prompt":"x","keep_alive":"6m"}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/said once stays for a request without",
                post("/api/generate", '{"model":"@chat@","keep_alive":"20m"}'),
                post("/api/generate", f'{{"model":"@chat@",{_ASK}}}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/said anew",
                post("/api/generate", '{"model":"@chat@","keep_alive":"20m"}'),
                post("/api/generate", '{"model":"@chat@","keep_alive":"3m"}'),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/ignored by OpenAI's",
                post(
                    "/v1/chat/completions",
                    '{"model":"@chat@","keep_alive":5,"seed":1,"temperature":0,"max_tokens":2,'
                    '"messages":[{"role":"user","content":"x"}]}',
                ),
                get("/api/ps", masks=_EXPIRING),
                empty=True,
            ),
            case(
                "keep_alive/more than there is",
                post("/api/generate", '{"model":"@chat@","keep_alive":1e12}'),
                Ask(target="/api/ps", until=r'"models":\[\]'),
                empty=True,
            ),
            case(
                "keep_alive/0 after an answer",
                post("/api/generate", f'{{"model":"@chat@","keep_alive":0,{_ASK}}}'),
                Ask(target="/api/ps", until=r'"models":\[\]'),
                empty=True,
            ),
            case(
                "keep_alive/0s after an answer",
                post("/api/generate", f'{{"model":"@chat@","keep_alive":"0s",{_ASK}}}'),
                Ask(target="/api/ps", until=r'"models":\[\]'),
                empty=True,
            ),
        ]
    )


CASES = _cases()
