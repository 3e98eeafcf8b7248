"""How `/v1/messages` answers: one object, or blocks that are opened, filled and closed.

Ollama v0.32.15 anthropic/anthropic.go (`ToMessagesResponse`, `StreamConverter`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.sse import event

_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def whole_message(identity: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    message = body["message"]
    calls = message.get("tool_calls", ())
    content: list[dict[str, Any]] = []
    if message.get("thinking"):
        content.append({"type": "thinking", "thinking": message["thinking"]})
    if message["content"]:
        content.append({"type": "text", "text": message["content"]})
    content += [_use(call) | {"input": call["function"]["arguments"]} for call in calls]
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content or None,
        **_stopped(body["done_reason"], called=bool(calls)),
        "usage": _usage(body),
    }


class MessageEvents:
    """The events of one answer.

    Args:
        identity: of the message.
        model: as the client calls it.
        estimate: tokens of the prompt, told before they were counted.
    """

    def __init__(self, identity: str, model: str, estimate: int) -> None:
        self._identity = identity
        self._model = model
        self._estimate = estimate
        self._began = False
        self._index = 0
        self._open = ""
        self._has_thought = False
        self._called: set[str] = set()

    def spell(self, chunk: Mapping[str, Any]) -> str:
        """What one object means here."""
        return "".join(event(body["type"], body) for body in self._events(chunk))

    def lost(self) -> str:
        """Nothing: the stream just ends."""
        return ""

    def _events(self, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        message = chunk["message"]
        if not self._began:
            self._began = True
            yield self._start(chunk.get("prompt_eval_count", 0) or self._estimate)
        if message.get("thinking") and not self._has_thought:
            yield from self._opened("thinking")
            yield self._delta("thinking_delta", "thinking", message["thinking"])
        if message["content"]:
            yield from self._opened("text")
            yield self._delta("text_delta", "text", message["content"])
        for call in message.get("tool_calls", ()):
            if call["id"] not in self._called:
                yield from self._call(call)
        if chunk["done"]:
            yield from self._end(chunk)

    def _start(self, input_tokens: int) -> dict[str, Any]:
        message = {
            "id": self._identity,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "usage": {"input_tokens": input_tokens, "output_tokens": 0},
        }
        return {"type": "message_start", "message": message}

    def _opened(self, kind: str) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._closed()
            self._open = kind
            yield self._block({"type": kind, kind: ""})

    def _closed(self) -> Iterator[dict[str, Any]]:
        """Thought that was followed by something else is not taken up again."""
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
            self._has_thought |= self._open == "thinking"
            self._open = ""
            self._index += 1

    def _call(self, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._closed()
        self._open = "tool_use"
        self._called.add(call["id"])
        yield self._block(_use(call) | {"input": {}})
        arguments = encode(call["function"]["arguments"])
        yield self._delta("input_json_delta", "partial_json", arguments)
        yield from self._closed()

    def _end(self, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._closed()
        stopped = _stopped(chunk["done_reason"], called=bool(self._called))
        yield {"type": "message_delta", "delta": stopped, "usage": _usage(chunk)}
        yield {"type": "message_stop"}

    def _block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, kind: str, key: str, value: str) -> dict[str, Any]:
        delta = {"type": kind, key: value}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _use(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"]}


def _stopped(reason: str, *, called: bool) -> dict[str, str]:
    told = "tool_use" if called else _REASONS.get(reason, "stop_sequence" if reason else "")
    return {"stop_reason": told} if told else {}


def _usage(body: Mapping[str, Any]) -> dict[str, int]:
    return {
        "input_tokens": body.get("prompt_eval_count", 0),
        "output_tokens": body.get("eval_count", 0),
    }
