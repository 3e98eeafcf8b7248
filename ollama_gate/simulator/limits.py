"""What a model cannot be given: more text than its context holds, media it has no eyes or ears for.

Ollama v0.32.15 llm/llama_server.go (`completionPromptForRequest`) and server/prompt.go; what
llama-server itself refuses is passed on as the JSON that it answers with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ollama_gate.simulator import babble
from ollama_gate.simulator.catalog import AUDIO, VISION, Model
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.replies import RefusedError
from ollama_gate.simulator.runner import Runner

_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the "
    "prompt, adjust the context length in settings, or use a model with a longer context length"
)
_NO_MEDIA = "Multimodal data provided, but model does not support multimodal requests."
_NOT_MEDIA = "Failed to load image or audio file"
_MEDIA_TOKENS = 768  # what Ollama reckons for one when it shortens a chat
_AUDIO = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
_WEBP = (b"RIFF", b"WEBP")
_WAVE = (b"RIFF", b"WAVE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is to read.

    Attributes:
        tokens: of the text, what the template adds included.
        room: tokens an answer may still have where the context may not shift; `None` where it may.
        refusal: why it will not be read after all.
    """

    text: str
    tokens: int
    media: Sequence[bytes] = ()
    room: int | None = None
    refusal: RefusedError | None = field(default=None)


def prompt_of(
    runner: Runner, request: Mapping[str, Any], text: str, media: Sequence[bytes], *, raw: bool
) -> Prompt:
    """A text as the runner takes it: whole, shortened, or not at all."""
    context = _context(runner)
    shifts = runner.launch.shift
    tokens = babble.prompt_tokens(text, raw=raw)
    refusal = _unreadable(runner.model, media)
    if tokens >= context:
        if media or request.get("truncate") is False:
            refusal = refusal or _beyond(tokens, context)
        elif not shifts:
            refusal = RefusedError(400, _TOO_LONG)
        else:
            tokens = context - max(context // 2, 1)
    room = None if shifts else max(1, context - tokens)
    read = tokens + (len(media) * _MEDIA_TOKENS if media else 0)
    return Prompt(text=text, tokens=read, media=media, room=room, refusal=refusal)


def fitting(
    runner: Runner, request: Mapping[str, Any], messages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The newest messages that fit, and every system message; the last one always."""
    if request.get("truncate") is False:
        return messages
    context = _context(runner)
    for first in range(len(messages)):
        kept = [m for m in messages[:first] if m.get("role") == "system"] + messages[first:]
        tokens = babble.prompt_tokens(spoken(kept), raw=False)
        tokens += _MEDIA_TOKENS * sum(len(message.get("images") or ()) for message in kept)
        if tokens <= context or first == len(messages) - 1:
            return kept
    return messages


def spoken(messages: Sequence[Mapping[str, Any]]) -> str:
    """A chat as one text."""
    return "\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in messages if m)


def _context(runner: Runner) -> int:
    return min(runner.launch.num_ctx, runner.model.shape.train_context)


def _unreadable(model: Model, media: Sequence[bytes]) -> RefusedError | None:
    if not media:
        return None
    if not model.can(VISION) and not model.can(AUDIO):
        return _engine_refusal(400, _NO_MEDIA, "invalid_request_error")
    wanted = {AUDIO if _is_audio(item) else VISION if _is_image(item) else "" for item in media}
    if not all(model.can(capability) for capability in wanted):
        return _engine_refusal(400, _NOT_MEDIA, "invalid_request_error")
    return None


def _beyond(tokens: int, context: int) -> RefusedError:
    text = (
        f"request ({tokens} tokens) exceeds the available context size ({context} tokens), "
        "try increasing it"
    )
    counts = {"n_prompt_tokens": tokens, "n_ctx": context}
    return _engine_refusal(400, text, "exceed_context_size_error", **counts)


def _engine_refusal(status: int, text: str, kind: str, **more: int) -> RefusedError:
    body = {"error": {"code": status, "message": text, "type": kind, **more}}
    return RefusedError(status, encode(body))


def _is_audio(data: bytes) -> bool:
    return data.startswith(_AUDIO) or (data[:4], data[8:12]) == _WAVE


def _is_image(data: bytes) -> bool:
    return data.startswith(_IMAGES) or (data[:4], data[8:12]) == _WEBP
