"""The dialects of OpenAI and Anthropic: answers, streams, refusals, packed bodies, forms."""

from tests.conformance.case import GENERATED, UNSEEDED, Ask, Case, case, post

_FIXED = '"seed":1,"temperature":0,"max_tokens":8'
_LONG = '"seed":1,"temperature":0,"max_tokens":48'
_SAID = '"messages":[{"role":"user","content":"Say a few words."}]'
_JSON = (("Content-Type", "application/json"),)
_WEATHER = (
    '{"type":"function","function":{"name":"weather","parameters":{"type":"object",'
    '"required":["town"],"properties":{"town":{"type":"string"}}}}}'
)
_SCHEMA = '{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}'
_CHAT = "/v1/chat/completions"
_COMPLETE = "/v1/completions"
_RESPOND = "/v1/responses"
_MESSAGE = "/v1/messages"
_EMBED = "/v1/embeddings"
_HEAR = "/v1/audio/transcriptions"


def _paced(target: str, body: str) -> Ask:
    masks = UNSEEDED if target in {_RESPOND, _MESSAGE} else GENERATED
    return Ask(method="POST", target=target, body=body, headers=_JSON, masks=masks, paced=True)


def _said(target: str, rest: str, model: str = "@chat@") -> Ask:
    masks = UNSEEDED if target in {_RESPOND, _MESSAGE} else GENERATED
    return post(target, f'{{"model":"{model}",{rest}}}', masks=masks)


def _cases() -> list[Case]:
    return [
        *_chats(),
        *_completions(),
        *_responses(),
        *_messages(),
        *_embeddings(),
        *_transcriptions(),
        *_packed(),
        *_refusals(),
    ]


def _chats() -> list[Case]:
    def chat(name: str, rest: str, model: str = "@chat@") -> Case:
        return case(f"openai chat/{name}", _said(_CHAT, rest, model))

    picture = (
        '"messages":[{"role":"user","content":[{"type":"text","text":"What?"},'
        '{"type":"image_url","image_url":{"url":"data:image/png;base64,@png:32@"}}]}]'
    )
    return [
        chat("whole", f"{_SAID},{_FIXED}"),
        case(
            "openai chat/a stream",
            _paced(_CHAT, f'{{"model":"@chat@",{_SAID},{_LONG},"stream":true}}'),
        ),
        case(
            "openai chat/a stream with usage",
            _paced(
                _CHAT,
                f'{{"model":"@chat@",{_SAID},{_LONG},"stream":true,'
                '"stream_options":{"include_usage":true}}',
            ),
        ),
        chat("tools", f'{_SAID},{_FIXED},"tools":[{_WEATHER}]', "@tools@"),
        case(
            "openai chat/a stream with tools",
            _paced(
                _CHAT,
                f'{{"model":"@tools@",{_SAID},{_LONG},"stream":true,"tools":[{_WEATHER}]}}',
            ),
        ),
        chat("tools for who has none", f'{_SAID},{_FIXED},"tools":[{_WEATHER}]', "@toolless@"),
        chat("a picture", f"{picture},{_FIXED}", "@vision@"),
        chat(
            "a picture by address",
            '"messages":[{"role":"user","content":[{"type":"image_url",'
            f'"image_url":{{"url":"http://127.0.0.1:1/a.png"}}}}]}}],{_FIXED}',
        ),
        chat(
            "content of an unknown kind",
            f'"messages":[{{"role":"user","content":[{{"type":"x"}}]}}],{_FIXED}',
        ),
        chat("content that is a number", f'"messages":[{{"role":"user","content":5}}],{_FIXED}'),
        chat("JSON", f'{_SAID},{_FIXED},"response_format":{{"type":"json_object"}}'),
        chat(
            "by a schema",
            f'{_SAID},{_FIXED},"response_format":{{"type":"json_schema",'
            f'"json_schema":{{"name":"n","schema":{_SCHEMA}}}}}',
        ),
        chat("logprobs", f'{_SAID},{_FIXED},"logprobs":true,"top_logprobs":2'),
        chat("effort", f'{_SAID},{_FIXED},"reasoning_effort":"low"', "@thinking@"),
        chat("no effort", f'{_SAID},{_FIXED},"reasoning_effort":"none"', "@thinking@"),
        chat("an unknown effort", f'{_SAID},{_FIXED},"reasoning_effort":"huge"', "@thinking@"),
        chat(
            "effort for who cannot think",
            f'{_SAID},{_FIXED},"reasoning_effort":"low"',
            "@thoughtless@",
        ),
        chat("stop as one text", f'{_SAID},{_FIXED},"stop":"x"'),
        chat("stop as texts", f'{_SAID},{_FIXED},"stop":["x","y"]'),
        chat("no messages", '"messages":[]'),
        chat("messages left out", _FIXED),
        chat("an unknown model", _SAID, "no-such-model"),
        chat("an unknown model, streaming", f'{_SAID},"stream":true', "no-such-model"),
        chat("an invalid name", _SAID, "a b"),
        chat("no name", _SAID, ""),
        chat("an embedder", _SAID, "@embed@"),
        chat("an embedder, streaming", f'{_SAID},"stream":true', "@embed@"),
        chat("a wrong type of temperature", f'{_SAID},"temperature":"hot"'),
        chat("a wrong type of stream", f'{_SAID},"stream":"yes"'),
        chat("a wrong type of stop", f'{_SAID},{_FIXED},"stop":5'),
        chat("a wrong type of max_tokens", f'{_SAID},"max_tokens":"x"'),
        chat("a key of a client's", f'{_SAID},{_FIXED},"user":"u","metadata":{{"a":"b"}},"n":1'),
        case(
            "openai chat/a key in capitals",
            post(
                _CHAT, f'{{"MODEL":"@chat@","Messages":[{{"role":"user","content":"x"}}],{_FIXED}}}'
            ),
        ),
        case(
            "openai chat/an authorization",
            post(
                _CHAT,
                f'{{"model":"@chat@",{_SAID},{_FIXED}}}',
                *_JSON,
                ("Authorization", "Bearer sk-none"),
                ("OpenAI-Beta", "x"),
            ),
        ),
    ]


def _completions() -> list[Case]:
    def complete(name: str, rest: str, model: str = "@chat@") -> Case:
        return case(f"openai completions/{name}", _said(_COMPLETE, rest, model))

    return [
        complete("whole", f'"prompt":"x",{_FIXED}'),
        case(
            "openai completions/a stream",
            _paced(_COMPLETE, f'{{"model":"@chat@","prompt":"x",{_LONG},"stream":true}}'),
        ),
        case(
            "openai completions/a stream with usage",
            _paced(
                _COMPLETE,
                f'{{"model":"@chat@","prompt":"x",{_LONG},"stream":true,'
                '"stream_options":{"include_usage":true}}',
            ),
        ),
        complete("in the middle", f'"prompt":"def f(","suffix":"return",{_FIXED}', "@insert@"),
        complete("no middle", f'"prompt":"def f(","suffix":"return",{_FIXED}', "@insertless@"),
        complete("stop of a wrong type", f'"prompt":"x","stop":5,{_FIXED}'),
        complete("stop with a number in", f'"prompt":"x","stop":[5],{_FIXED}'),
        complete("a list for a prompt", f'"prompt":["x"],{_FIXED}'),
        complete("an unknown model", '"prompt":"x"', "no-such-model"),
        complete("an embedder", '"prompt":"x"', "@embed@"),
        complete("no prompt", _FIXED),
        complete("effort", f'"prompt":"x","reasoning_effort":"huge",{_FIXED}'),
    ]


def _responses() -> list[Case]:
    fixed = '"temperature":0,"max_output_tokens":8'
    long = '"temperature":0,"max_output_tokens":48'
    tool = (
        '"tools":[{"type":"function","name":"weather","parameters":{"type":"object",'
        '"properties":{"town":{"type":"string"}}}}]'
    )

    def respond(name: str, rest: str, model: str = "@chat@") -> Case:
        return case(f"openai responses/{name}", _said(_RESPOND, rest, model))

    return [
        respond("a text", f'"input":"Say a few words.",{fixed}'),
        respond("messages", f'"input":[{{"role":"user","content":"x"}}],{fixed}'),
        respond(
            "parts",
            f'"input":[{{"type":"message","role":"user","content":[{{"type":"input_text","text":"x"}}]}}],{fixed}',
        ),
        respond("instructions", f'"instructions":"Be brief.","input":"x",{fixed}'),
        case(
            "openai responses/a stream",
            _paced(_RESPOND, f'{{"model":"@chat@","input":"x",{long},"stream":true}}'),
        ),
        respond("tools", f'"input":"x",{fixed},{tool}', "@tools@"),
        respond(
            "a tool's answer",
            '"input":[{"role":"user","content":"x"},{"type":"function_call","call_id":"c1",'
            '"name":"weather","arguments":"{}"},{"type":"function_call_output","call_id":"c1",'
            f'"output":"rain"}}],{fixed},{tool}',
            "@tools@",
        ),
        respond(
            "a picture",
            '"input":[{"role":"user","content":[{"type":"input_image",'
            f'"image_url":"data:image/png;base64,@png:32@"}}]}}],{fixed}',
            "@vision@",
        ),
        respond("an unknown kind of item", f'"input":[{{"type":"x"}}],{fixed}'),
        respond("an item without a kind", f'"input":[{{"a":1}}],{fixed}'),
        respond("a number", f'"input":5,{fixed}'),
        respond("no input", fixed),
        respond(
            "by a schema",
            f'"input":"x",{fixed},"text":{{"format":{{"type":"json_schema","name":"n","schema":{_SCHEMA}}}}}',
        ),
        respond("an unknown model", '"input":"x"', "no-such-model"),
        respond("an unknown model, streaming", '"input":"x","stream":true', "no-such-model"),
        respond("an embedder", '"input":"x"', "@embed@"),
        respond("effort", f'"input":"x","reasoning":{{"effort":"low"}},{fixed}', "@thinking@"),
        respond(
            "an unknown effort",
            f'"input":"x","reasoning":{{"effort":"huge"}},{fixed}',
            "@thinking@",
        ),
        respond("an earlier response", f'"input":"x","previous_response_id":"resp_1",{fixed}'),
    ]


def _messages() -> list[Case]:
    fixed = '"max_tokens":8,"temperature":0'
    long = '"max_tokens":48,"temperature":0'
    tool = (
        '"tools":[{"name":"weather","input_schema":{"type":"object",'
        '"properties":{"town":{"type":"string"}}}}]'
    )

    def message(name: str, rest: str, model: str = "@chat@") -> Case:
        return case(f"anthropic/{name}", _said(_MESSAGE, rest, model))

    return [
        message("whole", f"{_SAID},{fixed}"),
        case(
            "anthropic/a stream",
            _paced(_MESSAGE, f'{{"model":"@chat@",{_SAID},{long},"stream":true}}'),
        ),
        message("a system text", f'"system":"Be brief.",{_SAID},{fixed}'),
        message(
            "system blocks", f'"system":[{{"type":"text","text":"Be brief."}}],{_SAID},{fixed}'
        ),
        message(
            "content blocks",
            f'"messages":[{{"role":"user","content":[{{"type":"text","text":"x"}}]}}],{fixed}',
        ),
        message("tools", f"{_SAID},{fixed},{tool}", "@tools@"),
        case(
            "anthropic/a stream with tools",
            _paced(_MESSAGE, f'{{"model":"@tools@",{_SAID},{long},{tool},"stream":true}}'),
        ),
        message(
            "a tool's answer",
            '"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use",'
            '"id":"toolu_1","name":"weather","input":{}}]},{"role":"user","content":[{"type":'
            f'"tool_result","tool_use_id":"toolu_1","content":"rain"}}]}}],{fixed},{tool}',
            "@tools@",
        ),
        message(
            "a tool used without an id",
            '"messages":[{"role":"assistant","content":[{"type":"tool_use","name":"weather",'
            f'"input":{{}}}}]}}],{fixed}',
        ),
        message(
            "a picture",
            '"messages":[{"role":"user","content":[{"type":"image","source":{"type":'
            f'"base64","media_type":"image/png","data":"@png:32@"}}}}]}}],{fixed}',
            "@vision@",
        ),
        message(
            "a picture by address",
            '"messages":[{"role":"user","content":[{"type":"image","source":'
            f'{{"type":"url","url":"http://127.0.0.1:1/a.png"}}}}]}}],{fixed}',
            "@vision@",
        ),
        message(
            "thought",
            f'{_SAID},{fixed},"thinking":{{"type":"enabled","budget_tokens":1024}}',
            "@thinking@",
        ),
        message(
            "no thought",
            f'{_SAID},{fixed},"thinking":{{"type":"enabled","budget_tokens":1024}}',
            "@thoughtless@",
        ),
        message("stop sequences", f'{_SAID},{fixed},"stop_sequences":["x"]'),
        message("no max_tokens", _SAID),
        message("max_tokens 0", f'{_SAID},"max_tokens":0'),
        message("no messages", f'"messages":[],{fixed}'),
        message("messages left out", fixed),
        message("an unknown model", f"{_SAID},{fixed}", "no-such-model"),
        message("an unknown model, streaming", f'{_SAID},{fixed},"stream":true', "no-such-model"),
        message("no name", f"{_SAID},{fixed}", ""),
        message("an invalid name", f"{_SAID},{fixed}", "a b"),
        message("an embedder", f"{_SAID},{fixed}", "@embed@"),
        message("a wrong type of max_tokens", f'{_SAID},"max_tokens":"x"'),
        message("a cloud model", f"{_SAID},{fixed}", "qwen3:cloud"),
        case(
            "anthropic/a client's headers",
            post(
                _MESSAGE,
                f'{{"model":"@chat@",{_SAID},{fixed}}}',
                *_JSON,
                ("x-api-key", "none"),
                ("anthropic-version", "2023-06-01"),
                masks=UNSEEDED,
            ),
        ),
    ]


def _embeddings() -> list[Case]:
    def embed(name: str, rest: str, model: str = "@embed@") -> Case:
        return case(f"openai embeddings/{name}", _said(_EMBED, rest, model))

    return [
        embed("one text", '"input":"a text"'),
        embed("several texts", '"input":["one","two"]'),
        embed("base64", '"input":"x","encoding_format":"base64"'),
        embed("an unknown form", '"input":"x","encoding_format":"hex"'),
        embed("dimensions", '"input":"x","dimensions":8'),
        embed("an empty text", '"input":""'),
        embed("no texts", '"input":[]'),
        embed("no input", '"user":"u"'),
        embed("tokens", '"input":[1,2,3]'),
        embed("an unknown model", '"input":"x"', "no-such-model"),
        embed("a model that completes", '"input":"x"', "@chat@"),
        embed("a cloud model", '"input":"x"', "x:cloud"),
    ]


_EDGE = "----conformance"


def _form(*parts: tuple[str, str], edge: str = _EDGE) -> bytes:
    text = "".join(
        f"--{edge}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n"
        for head, content in parts
    )
    return f"{text}--{edge}--\r\n".encode("latin-1")


def _transcriptions() -> list[Case]:
    file = ('name="file"; filename="a.wav"', "@wav:100@")
    model = ('name="model"', "@audio@")
    deaf = ('name="model"', "@chat@")
    text = ('name="response_format"', "text")
    of_form = (("Content-Type", f"multipart/form-data; boundary={_EDGE}"),)

    def hear(name: str, body: bytes, *headers: tuple[str, str]) -> Case:
        return case(
            f"transcriptions/{name}", post(_HEAR, body, *(headers or of_form), masks=UNSEEDED)
        )

    return [
        hear("the model first", _form(model, file)),
        hear("the model last", _form(file, model)),
        hear("as text", _form(file, model, text)),
        hear("the model first, deaf", _form(deaf, file)),
        hear("the model last, deaf", _form(file, deaf)),
        hear("the model in between, deaf", _form(file, deaf, text)),
        hear("two models, deaf", _form(deaf, ('name="model"', "none"), file)),
        hear("no model", _form(file)),
        hear("an empty model", _form(('name="model"', ""), file)),
        hear("an unknown model", _form(('name="model"', "none"), file)),
        hear("no file", _form(deaf)),
        hear("an empty file", _form(deaf, ('name="file"; filename="a.wav"', ""))),
        hear("no form", b'{"model":"@chat@"}', *_JSON),
        hear("no boundary", _form(deaf, file), ("Content-Type", "multipart/form-data")),
        hear("another boundary", _form(deaf, file, edge="x"), *of_form),
        hear("a form cut short", _form(deaf, file)[:-30]),
        case(
            "transcriptions/the model in the query",
            post(f"{_HEAR}?model=none", _form(file), *of_form),
        ),
        hear("a large file, deaf", _form(('name="file"; filename="a.wav"', "@wav:40000@"), deaf)),
    ]


def _packed() -> list[Case]:
    """Codex and others pack bodies; Ollama unpacks zstd on its `/v1` alone."""

    def packed(name: str, target: str, body: str, encoding: str) -> Case:
        ask = Ask(
            method="POST",
            target=target,
            headers=_JSON,
            body=body,
            encoding=encoding,
            masks=UNSEEDED,
        )
        return case(f"packed/{encoding}, {name}", ask)

    bodies = {
        _CHAT: f'{{"model":"@chat@",{_SAID},{_FIXED}}}',
        _COMPLETE: f'{{"model":"@chat@","prompt":"x",{_FIXED}}}',
        _RESPOND: '{"model":"@chat@","input":"x","temperature":0,"max_output_tokens":8}',
        _MESSAGE: f'{{"model":"@chat@",{_SAID},"temperature":0,"max_tokens":8}}',
        _EMBED: '{"model":"@embed@","input":"x"}',
        "/api/generate": '{"model":"@chat@"}',
        "/api/chat": '{"model":"@chat@"}',
        "/api/show": '{"model":"@chat@"}',
    }
    broken = post(_CHAT, b"\x28\xb5\x2f\xfd no frame", *_JSON, ("Content-Encoding", "zstd"))
    unpacked = post(_CHAT, bodies[_CHAT], *_JSON, ("Content-Encoding", "zstd"))
    return [
        *(packed(target, target, body, "zstd") for target, body in bodies.items()),
        *(packed(target, target, bodies[target], "gzip") for target in (_CHAT, _MESSAGE, _EMBED)),
        packed("a stream", _CHAT, f'{{"model":"@chat@",{_SAID},{_FIXED},"stream":true}}', "zstd"),
        packed("an unknown model", _CHAT, f'{{"model":"none",{_SAID}}}', "zstd"),
        packed("a large body", _CHAT, f'{{"pad":"@fill:3000000@","model":"none",{_SAID}}}', "zstd"),
        case("packed/zstd, not a frame", broken),
        case("packed/zstd, not packed", unpacked),
        case(
            "packed/an unknown encoding",
            post(_CHAT, bodies[_CHAT], *_JSON, ("Content-Encoding", "x")),
        ),
        case(
            "packed/identity",
            post(_CHAT, bodies[_CHAT], *_JSON, ("Content-Encoding", "identity")),
        ),
    ]


def _refusals() -> list[Case]:
    bodies = {
        "no JSON": "no JSON",
        "a broken object": '{"model":"@chat@"',
        "a list": "[]",
        "an empty body": "",
        "an empty object": "{}",
        "a number for the model": '{"model":5}',
        "garbage after it": '{"model":"none"} and more',
    }
    targets = (_CHAT, _COMPLETE, _RESPOND, _MESSAGE, _EMBED)
    return [
        case(f"refused/{target}: {what}", post(target, body))
        for target in targets
        for what, body in bodies.items()
    ] + [
        *(
            case(
                f"refused/{target}: no body at all",
                Ask(method="POST", target=target, masks=GENERATED),
            )
            for target in targets
        ),
        case(
            "openai models/shown by the name that it gives",
            Ask(target="/v1/models/@chat@", captures=(("shown", r'"id":"([^"]+)"'),)),
            post("/api/show", '{"model":"@shown@"}', masks=()),
        ),
    ]


CASES = _cases()
