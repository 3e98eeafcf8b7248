"""Ollama's own inference routes: answers, streams, loads, unloads and every refusal."""

from tests.conformance.case import GENERATED, OWN, Ask, Case, case, get, post

_FIXED = '"options":{"seed":1,"temperature":0,"num_predict":8}'
_LONG = '"options":{"seed":1,"temperature":0,"num_predict":48}'
_SAID = '"messages":[{"role":"user","content":"Say a few words."}]'
_WEATHER = (
    '{"type":"function","function":{"name":"weather","description":"of a town",'
    '"parameters":{"type":"object","required":["town"],'
    '"properties":{"town":{"type":"string","description":"where"}}}}}'
)
_SCHEMA = (
    '{"type":"object","required":["n"],"properties":{"n":{"type":"integer"},'
    '"s":{"type":"string","enum":["a","b"]}}}'
)


def _generate(name: str, body: str) -> Case:
    return case(f"generate/{name}", post("/api/generate", body))


def _chat(name: str, body: str) -> Case:
    return case(f"chat/{name}", post("/api/chat", body))


def _paced(target: str, body: str) -> Ask:
    headers = (("Content-Type", "application/json"),)
    return Ask(
        method="POST", target=target, body=body, headers=headers, masks=GENERATED, paced=True
    )


def _cases() -> list[Case]:
    return [
        *_generating(),
        *_chatting(),
        *_loading(),
        *_embedding(),
        *_refusing(),
        *_wrong_types(),
        *_clouds(),
    ]


def _generating() -> list[Case]:
    return [
        case(
            "generate/a stream",
            _paced("/api/generate", f'{{"model":"@chat@","prompt":"x",{_LONG}}}'),
        ),
        case(
            "generate/a stream, said to be one",
            _paced("/api/generate", f'{{"model":"@chat@","prompt":"x","stream":true,{_LONG}}}'),
        ),
        _generate("whole", f'{{"model":"@chat@","prompt":"x","stream":false,{_FIXED}}}'),
        _generate("raw", f'{{"model":"@chat@","prompt":"x","raw":true,"stream":false,{_FIXED}}}'),
        _generate(
            "with a system text",
            f'{{"model":"@chat@","prompt":"x","system":"Be brief.","stream":false,{_FIXED}}}',
        ),
        _generate(
            "with a template",
            '{"model":"@chat@","prompt":"x","template":"{{ .Prompt }}","stream":false,'
            f"{_FIXED}}}",
        ),
        _generate(
            "with a context",
            f'{{"model":"@chat@","prompt":"x","context":[1,2,3],"stream":false,{_FIXED}}}',
        ),
        _generate(
            "JSON", f'{{"model":"@chat@","prompt":"x","format":"json","stream":false,{_FIXED}}}'
        ),
        _generate(
            "by a schema",
            f'{{"model":"@chat@","prompt":"x","format":{_SCHEMA},"stream":false,{_FIXED}}}',
        ),
        _generate(
            "with logprobs",
            f'{{"model":"@chat@","prompt":"x","logprobs":true,"top_logprobs":2,"stream":false,{_FIXED}}}',
        ),
        _generate(
            "with a picture",
            f'{{"model":"@vision@","prompt":"x","images":["@png:32@"],"stream":false,{_FIXED}}}',
        ),
        _generate(
            "with a thought",
            f'{{"model":"@thinking@","prompt":"x","think":true,"stream":false,{_FIXED}}}',
        ),
        _generate(
            "without a thought",
            f'{{"model":"@thinking@","prompt":"x","think":false,"stream":false,{_FIXED}}}',
        ),
        _generate(
            "in the middle",
            f'{{"model":"@insert@","prompt":"def f(","suffix":"return 1","stream":false,{_FIXED}}}',
        ),
        _generate("rendered only", '{"model":"@chat@","prompt":"x","_debug_render_only":true}'),
        case(
            "generate/the seed decides",
            post("/api/generate", f'{{"model":"@chat@","prompt":"x","stream":false,{_FIXED}}}'),
            post("/api/generate", f'{{"model":"@chat@","prompt":"x","stream":false,{_FIXED}}}'),
        ),
    ]


def _chatting() -> list[Case]:
    tools = f'"tools":[{_WEATHER}]'
    return [
        case("chat/a stream", _paced("/api/chat", f'{{"model":"@chat@",{_SAID},{_LONG}}}')),
        _chat("whole", f'{{"model":"@chat@",{_SAID},"stream":false,{_FIXED}}}'),
        _chat("whole with tools", f'{{"model":"@tools@",{_SAID},{tools},"stream":false,{_FIXED}}}'),
        case(
            "chat/a stream with tools",
            _paced("/api/chat", f'{{"model":"@tools@",{_SAID},{tools},{_LONG}}}'),
        ),
        _chat(
            "a tool's answer",
            '{"model":"@tools@","messages":[{"role":"user","content":"Weather in Rome?"},'
            '{"role":"assistant","content":"","tool_calls":[{"function":{"name":"weather",'
            '"arguments":{"town":"Rome"}}}]},'
            '{"role":"tool","tool_name":"weather","content":"rain"}],'
            f'{tools},"stream":false,{_FIXED}}}',
        ),
        _chat("JSON", f'{{"model":"@chat@",{_SAID},"format":"json","stream":false,{_FIXED}}}'),
        _chat(
            "by a schema",
            f'{{"model":"@chat@",{_SAID},"format":{_SCHEMA},"stream":false,{_FIXED}}}',
        ),
        case(
            "chat/a stream by a schema",
            _paced("/api/chat", f'{{"model":"@chat@",{_SAID},"format":{_SCHEMA},{_LONG}}}'),
        ),
        _chat("logprobs", f'{{"model":"@chat@",{_SAID},"logprobs":true,"stream":false,{_FIXED}}}'),
        case(
            "chat/a stream with thought",
            _paced("/api/chat", f'{{"model":"@thinking@",{_SAID},"think":true,{_LONG}}}'),
        ),
        _chat(
            "a level of thought",
            f'{{"model":"@thinking@",{_SAID},"think":"low","stream":false,{_FIXED}}}',
        ),
        _chat(
            "no thought", f'{{"model":"@thinking@",{_SAID},"think":false,"stream":false,{_FIXED}}}'
        ),
        _chat(
            "a picture",
            '{"model":"@vision@","messages":[{"role":"user","content":"What is it?",'
            f'"images":["@png:32@"]}}],"stream":false,{_FIXED}}}',
        ),
        _chat(
            "system alone",
            f'{{"model":"@chat@","messages":[{{"role":"system","content":"x"}}],"stream":false,{_FIXED}}}',
        ),
        _chat(
            "an unknown role",
            f'{{"model":"@chat@","messages":[{{"role":"boss","content":"x"}}],"stream":false,{_FIXED}}}',
        ),
        _chat(
            "an empty message", f'{{"model":"@chat@","messages":[{{}}],"stream":false,{_FIXED}}}'
        ),
        _chat("a null message", f'{{"model":"@chat@","messages":[null],"stream":false,{_FIXED}}}'),
    ]


def _loading() -> list[Case]:
    forms = {
        "generate without a prompt": ("/api/generate", '{"model":"@chat@"}'),
        "generate with an empty prompt": ("/api/generate", '{"model":"@chat@","prompt":""}'),
        "generate, streaming": ("/api/generate", '{"model":"@chat@","stream":true}'),
        "generate with a context": (
            "/api/generate",
            '{"model":"@chat@","options":{"num_ctx":2048}}',
        ),
        "chat without messages": ("/api/chat", '{"model":"@chat@"}'),
        "chat with no messages in it": ("/api/chat", '{"model":"@chat@","messages":[]}'),
        "embed without input": ("/api/embed", '{"model":"@embed@"}'),
        "embed with an empty input": ("/api/embed", '{"model":"@embed@","input":""}'),
        "embed with no input in it": ("/api/embed", '{"model":"@embed@","input":[]}'),
        "embeddings without a prompt": ("/api/embeddings", '{"model":"@embed@"}'),
        "completions with an empty prompt": ("/v1/completions", '{"model":"@chat@","prompt":""}'),
    }
    loads = [
        case(
            f"load/{how}",
            post(target, body),
            get("/api/ps", masks=("expires",)),
            empty=True,
        )
        for how, (target, body) in forms.items()
    ]
    unload = '"keep_alive":0'
    gone = Ask(target="/api/ps", until=r'"models":\[\]')
    return [
        *loads,
        case(
            "unload/generate",
            post("/api/generate", '{"model":"@chat@"}'),
            post("/api/generate", f'{{"model":"@chat@",{unload}}}'),
            gone,
            empty=True,
        ),
        case(
            "unload/chat",
            post("/api/chat", '{"model":"@chat@"}'),
            post("/api/chat", f'{{"model":"@chat@","messages":[],{unload}}}'),
            gone,
            empty=True,
        ),
        case(
            "unload/by another spelling",
            post("/api/generate", '{"model":"@chat@"}'),
            post("/api/generate", f'{{"model":"library/@chat_upper@",{unload}}}'),
            gone,
            empty=True,
        ),
        case(
            "unload/an embedder",
            post("/api/embed", '{"model":"@embed@"}'),
            post("/api/generate", f'{{"model":"@embed@",{unload}}}'),
            gone,
            empty=True,
        ),
        case(
            "unload/what is not loaded",
            post("/api/generate", f'{{"model":"@chat@",{unload}}}'),
            gone,
            empty=True,
        ),
        case(
            "unload/streaming",
            post("/api/generate", f'{{"model":"@chat@","stream":true,{unload}}}'),
            gone,
            empty=True,
        ),
        case(
            "unload/with 0s",
            post("/api/generate", '{"model":"@chat@","keep_alive":"0s"}'),
            gone,
            empty=True,
        ),
        case(
            "unload/with 0.0",
            post("/api/generate", '{"model":"@chat@","keep_alive":0.0}'),
            gone,
            empty=True,
        ),
        case("unload/an unknown model", post("/api/generate", f'{{"model":"none",{unload}}}')),
        case("unload/an unknown model, chat", post("/api/chat", f'{{"model":"none",{unload}}}')),
        case(
            "load/two models",
            post("/api/generate", '{"model":"@chat@","keep_alive":"5m"}'),
            post("/api/generate", '{"model":"@other@","keep_alive":"9m"}'),
            get("/api/ps", masks=("expires",)),
            empty=True,
        ),
        case(
            "load/under a name of one's own",
            Ask(
                method="POST",
                target="/api/copy",
                body='{"source":"@chat@","destination":"@mine@"}',
                stage=True,
            ),
            post("/api/generate", '{"model":"@mine@"}', masks=(*GENERATED, *OWN)),
            get("/api/ps", masks=("expires", *OWN)),
            post("/api/generate", '{"model":"@mine@","keep_alive":0}', masks=(*GENERATED, *OWN)),
            afterwards=(Ask(method="DELETE", target="/api/delete", body='{"model":"@mine@"}'),),
            empty=True,
        ),
    ]


def _embedding() -> list[Case]:
    def embed(name: str, rest: str, model: str = "@embed@") -> Case:
        return case(f"embed/{name}", post("/api/embed", f'{{"model":"{model}",{rest}}}'))

    def old(name: str, rest: str, model: str = "@embed@") -> Case:
        return case(
            f"embed/old route, {name}", post("/api/embeddings", f'{{"model":"{model}",{rest}}}')
        )

    return [
        embed("one text", '"input":"a text"'),
        embed("several texts", '"input":["one","two","three"]'),
        embed("an empty text among others", '"input":["one",""]'),
        embed("fewer dimensions", '"input":"x","dimensions":8'),
        embed("negative dimensions", '"input":"x","dimensions":-1'),
        embed("too long, cut", '"input":"@words:9000@"'),
        embed("too long, not cut", '"input":"@words:9000@","truncate":false'),
        embed("a number", '"input":5'),
        embed("numbers", '"input":[1,2]'),
        embed("an object", '"input":{"a":1}'),
        embed("a model that completes", '"input":"x"', "@chat@"),
        embed("an unknown model", '"input":"x"', "none"),
        embed("an invalid name", '"input":"x"', "a@@b"),
        embed("no name", '"input":"x"', ""),
        embed("a cloud model", '"input":"x"', "x:cloud"),
        embed("a stub", '"input":"x"', "@stub@"),
        old("a text", '"prompt":"a text"'),
        old("a long text", '"prompt":"@words:9000@"'),
        old("a model that completes", '"prompt":"x"', "@chat@"),
        old("an unknown model", '"prompt":"x"', "none"),
        old("no name", '"prompt":"x"', ""),
        old("a stub", '"prompt":"x"', "@stub@"),
    ]


def _refusing() -> list[Case]:
    routes = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show")
    both = ("/api/generate", "/api/chat")
    bodies = {
        "no JSON": "no JSON",
        "a broken object": '{"model":"@chat@"',
        "a list": "[]",
        "a number": "1",
        "an empty body": "",
        "an empty object": "{}",
        "a number for the model": '{"model":5}',
        "an unknown model": '{"model":"no-such-model"}',
        "an invalid name": '{"model":"a b"}',
        "two sources": '{"model":"x:cloud:local"}',
    }
    broken = [
        case(f"refused/{path}: {what}", post(path, body))
        for path in routes
        for what, body in bodies.items()
    ]
    missing = [
        case(f"refused/{path}: no body at all", Ask(method="POST", target=path)) for path in routes
    ]
    asked = '"prompt":"x",' + _SAID
    capabilities = [
        case(f"refused/{path}: {what}", post(path, f'{{"model":"{model}",{asked},{rest}}}'))
        for path in both
        for what, model, rest in (
            ("an embedder completes nothing", "@embed@", '"stream":false'),
            ("an embedder completes nothing, streaming", "@embed@", '"stream":true'),
            ("no thought", "@thoughtless@", '"think":true'),
            ("no level of thought", "@thoughtless@", '"think":"high"'),
            ("an unknown level of thought", "@chat@", '"think":"much"'),
            ("a number for a thought", "@chat@", '"think":1'),
            ("no tools", "@toolless@", f'"tools":[{_WEATHER}],"stream":false,{_FIXED}'),
            ("no middle", "@insertless@", f'"suffix":"y","stream":false,{_FIXED}'),
            ("too many top_logprobs", "@chat@", '"top_logprobs":21'),
            ("a negative top_logprobs", "@chat@", '"top_logprobs":-1'),
            ("a format that is none", "@chat@", '"format":"xml","stream":false'),
            ("a format that is none, streaming", "@chat@", '"format":"xml"'),
            ("a format that is a number", "@chat@", '"format":5,"stream":false'),
            ("an empty format", "@chat@", f'"format":"","stream":false,{_FIXED}'),
        )
    ]
    return (
        broken
        + missing
        + capabilities
        + [
            _generate(
                "refused: raw with a template",
                '{"model":"@chat@","prompt":"x","raw":true,"template":"y"}',
            ),
            _generate(
                "refused: raw with a system text",
                '{"model":"@chat@","prompt":"x","raw":true,"system":"y"}',
            ),
            _generate(
                "refused: raw with a context",
                '{"model":"@chat@","prompt":"x","raw":true,"context":[1]}',
            ),
            _generate(
                "refused: a broken template",
                '{"model":"@chat@","prompt":"x","template":"{{ .X","stream":false}',
            ),
            _generate(
                "refused: a picture not in base64", '{"model":"@chat@","prompt":"x","images":["?"]}'
            ),
            _generate(
                "refused: a picture that is none",
                f'{{"model":"@vision@","prompt":"x","images":["aGVsbG8="],"stream":false,{_FIXED}}}',
            ),
            _generate(
                "a picture for who cannot see",
                f'{{"model":"@sightless@","prompt":"x","images":["@png:8@"],"stream":false,{_FIXED}}}',
            ),
            _chat(
                "a picture for who cannot see",
                '{"model":"@sightless@","messages":[{"role":"user","content":"x","images":["@png:8@"]}],'
                f'"stream":false,{_FIXED}}}',
            ),
            _generate(
                "too long, cut",
                '{"model":"@chat@","prompt":"@words:3000@","stream":false,"options":{"num_ctx":512,"seed":1,"temperature":0,"num_predict":2}}',
            ),
            _generate(
                "too long, not cut",
                '{"model":"@chat@","prompt":"@words:3000@","truncate":false,"stream":false,"options":{"num_ctx":512,"seed":1,"temperature":0,"num_predict":2}}',
            ),
            _generate(
                "too long, not cut, streaming",
                '{"model":"@chat@","prompt":"@words:3000@","truncate":false,"options":{"num_ctx":512,"seed":1,"temperature":0,"num_predict":2}}',
            ),
            _chat(
                "too long, not cut",
                '{"model":"@chat@","messages":[{"role":"user","content":"@words:3000@"}],"truncate":false,"stream":false,"options":{"num_ctx":512,"seed":1,"temperature":0,"num_predict":2}}',
            ),
        ]
    )


def _wrong_types() -> list[Case]:
    fields = {
        "prompt": "5",
        "stream": '"yes"',
        "system": "[]",
        "raw": "1",
        "images": '"x"',
        "context": '"x"',
        "options": '"x"',
        "template": "{}",
        "shift": '"no"',
        "top_logprobs": "1.5",
    }
    options = {
        "num_ctx": '"big"',
        "num_predict": "true",
        "temperature": '"hot"',
        "seed": "[1]",
        "stop": "5",
        "use_mmap": '"yes"',
        "num_gpu": "{}",
        "main_gpu": '"0"',
        "num_thread": '"2"',
        "top_k": "null",
        "repeat_penalty": "true",
    }
    chats = {
        "messages": '"x"',
        "messages, a number in": "[5]",
        "messages, content a list": '[{"role":"user","content":["x"]}]',
        "messages, role a number": '[{"role":5,"content":"x"}]',
        "tools": '"x"',
        "tools, a number in": "[1]",
    }
    return [
        *(
            _generate(
                f"wrong type of {name}", f'{{"model":"@chat@","prompt":"x","{name}":{value}}}'
            )
            for name, value in fields.items()
        ),
        *(
            _generate(
                f"wrong type of option {name}",
                '{"model":"@chat@","prompt":"x","stream":false,"options":{"num_predict":2,'
                f'"seed":1,"temperature":0,"{name}":{value}}}}}',
            )
            for name, value in options.items()
        ),
        *(
            _chat(
                f"wrong type of {name}", f'{{"model":"@chat@","{name.partition(",")[0]}":{value}}}'
            )
            for name, value in chats.items()
        ),
        case(
            "embed/wrong type of an option",
            post("/api/embed", '{"model":"@embed@","input":"x","options":{"num_ctx":"x"}}'),
        ),
        case(
            "embed/wrong type of truncate",
            post("/api/embed", '{"model":"@embed@","input":"x","truncate":"no"}'),
        ),
    ]


def _clouds() -> list[Case]:
    """Names that run elsewhere; without a network or an account they are refused, on both ways."""
    masks = (*GENERATED, "key")
    names = ("gpt-oss:120b-cloud", "qwen3:cloud", "gpt-oss:120b:cloud", "@stub@", "@stub@:local")
    return [
        case(
            f"cloud/{path} {name}",
            post(path, f'{{"model":"{name}","prompt":"x",{_SAID},"stream":false}}', masks=masks),
        )
        for name in names
        for path in ("/api/generate", "/api/chat", "/v1/chat/completions")
    ] + [
        case(
            "cloud/unload a stub",
            post("/api/generate", '{"model":"@stub@","keep_alive":0}', masks=masks),
        ),
        case(
            "cloud/a stub streams", post("/api/chat", f'{{"model":"@stub@",{_SAID}}}', masks=masks)
        ),
        case("cloud/show", post("/api/show", '{"model":"qwen3:cloud"}', masks=masks)),
    ]


CASES = _cases()
