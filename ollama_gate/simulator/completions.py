"""`/v1/completions`: OpenAI's older dialect, over `/api/generate`.

Ollama v0.32.15 middleware/openai.go (`CompleteWriter`) and openai/openai.go.
"""

import random
import time
from collections.abc import Mapping
from typing import Any

from ollama_gate.simulator import schemas
from ollama_gate.simulator.native import generate_with
from ollama_gate.simulator.openai import go_type, usage_of
from ollama_gate.simulator.passing import UntranslatableError, opened, read
from ollama_gate.simulator.replies import EVENTS, Answer, Lines, Stream, Text
from ollama_gate.simulator.sse import data, spelled
from ollama_gate.simulator.world import Call

_IDS = 999  # Ollama's ids are this few
_NOTHING = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


async def completions(call: Call) -> Answer | Lines | Text:
    """POST /v1/completions."""
    call = opened(call)
    asked = read(call, schemas.OPENAI_COMPLETION)
    reply = await generate_with(call, _native(asked))
    identity = f"cmpl-{random.randrange(_IDS)}"
    usage = (asked.get("stream_options") or {}).get("include_usage", False)
    spelling = _Chunks(identity, include_usage=usage)
    match reply:
        case Stream():
            return Lines(spelled(reply.chunks, spelling))
        case Answer() if asked.get("stream"):
            return Text(spelling.spell(reply.body), EVENTS)  # nobody flushes a load
        case Answer():
            return Answer(_frame(identity, reply.body) | {"usage": usage_of(reply.body)})


def _native(asked: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        "temperature": asked.get("temperature", 1.0),
        "top_p": asked.get("top_p") or 1.0,
        "frequency_penalty": asked.get("frequency_penalty", 0.0),
        "presence_penalty": asked.get("presence_penalty", 0.0),
    } | _stops(asked.get("stop"))
    options |= {"num_predict": asked["max_tokens"]} if "max_tokens" in asked else {}
    options |= {"seed": asked["seed"]} if "seed" in asked else {}
    logprobs = asked.get("logprobs", 0)
    return {
        "model": asked.get("model", ""),
        "prompt": asked.get("prompt", ""),
        "options": options,
        "stream": asked.get("stream", False),
        "suffix": asked.get("suffix", ""),
        "logprobs": logprobs > 0,
        "top_logprobs": max(0, logprobs),
    }


def _stops(stop: Any) -> dict[str, list[str]]:
    if isinstance(stop, str):
        return {"stop": [stop]}
    if not isinstance(stop, list):
        return {}
    for word in stop:
        if not isinstance(word, str):
            raise UntranslatableError(f"invalid type for 'stop' field: {go_type(word)}")
    return {"stop": stop}


class _Chunks:
    """`text_completion` after `text_completion`."""

    def __init__(self, identity: str, *, include_usage: bool) -> None:
        self._identity = identity
        self._include_usage = include_usage

    def spell(self, chunk: Mapping[str, Any]) -> str:
        """A piece of text; the last one says why it ends."""
        frame = _frame(self._identity, chunk, is_chunk=True)
        text = data(frame | ({"usage": _NOTHING} if self._include_usage else {}))
        if not chunk.get("done"):
            return text
        if self._include_usage:
            text += data(frame | {"choices": [], "usage": usage_of(chunk)})
        return f"{text}data: [DONE]\n\n"

    def lost(self) -> str:
        """An empty piece of no model."""
        return self.spell({"model": "", "response": ""})


def _frame(identity: str, body: Mapping[str, Any], *, is_chunk: bool = False) -> dict[str, Any]:
    """Both kinds of answer; they differ in the order of their fields."""
    reason = body.get("done_reason")
    choices = {"choices": [{"text": body["response"], "index": 0, "finish_reason": reason}]}
    names = {"model": body["model"], "system_fingerprint": "fp_ollama"}
    head = {"id": identity, "object": "text_completion", "created": int(time.time())}
    return head | (choices | names if is_chunk else names | choices)
