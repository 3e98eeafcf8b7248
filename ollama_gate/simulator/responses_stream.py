"""How `/v1/responses` answers: one object, or events in the order that clients count on.

Ollama v0.32.15 openai/responses.go (`ToResponse`, `ResponsesStreamConverter`). Go writes the events
from maps, so their keys are sorted; the object of an answer that does not stream is a struct.
"""

import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ollama_gate.simulator.gojson import as_go_maps, plain
from ollama_gate.simulator.openai import tool_calls_of
from ollama_gate.simulator.sse import event

_IDS = 999_999
_CODES = {401: "authentication_error", 429: "rate_limit_exceeded"}
_Event = tuple[str, dict[str, Any]]


def whole_response(
    identity: str, item: str, body: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    now = int(time.time())
    return {
        "id": identity,
        "object": "response",
        "created_at": now,
        "completed_at": now,
        "status": "completed",
        "incomplete_details": None,
        "model": asked.get("model", ""),
        "previous_response_id": None,
        "instructions": asked.get("instructions") or None,
        "output": _output(identity, item, body["message"]),
        "error": None,
        "tools": [_declared(tool or {}) for tool in asked.get("tools") or ()],
        "tool_choice": "auto",
        "truncation": asked.get("truncation", "disabled"),
        "parallel_tool_calls": True,
        "text": {"format": _format(asked)},
        "top_p": asked.get("top_p", 1.0),
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": asked.get("temperature", 1.0),
        "reasoning": _reasoning(asked),
        "usage": _usage(body),
        "max_output_tokens": asked.get("max_output_tokens"),
        "max_tool_calls": None,
        "store": False,
        "background": asked.get("background", False),
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


class ResponseEvents:
    """The events of one answer; what is open is closed before the next item begins."""

    def __init__(self, identity: str, item: str, asked: Mapping[str, Any]) -> None:
        self._identity = identity
        self._item = item
        self._asked = asked
        self._began = False
        self._sequence = 0
        self._index = 0
        self._thought_item = ""
        self._thought = ""
        self._is_text_open = False
        self._text = ""
        self._called = False
        self._items: list[dict[str, Any]] = []

    def spell(self, chunk: Mapping[str, Any]) -> str:
        """What one object means here."""
        return "".join(self._numbered(name, body) for name, body in self._events(chunk))

    def lost(self) -> str:
        """Nothing: the stream just ends."""
        return ""

    def failed(self, status: int, text: str) -> str:
        """A failure told as an event, which is for answers that may search the web."""
        return "".join(self._numbered(name, body) for name, body in self._failure(status, text))

    def _failure(self, status: int, text: str) -> Iterator[_Event]:
        yield from self._opening()
        error = {"code": _CODES.get(status, "api_error"), "message": text}
        yield (
            "response.failed",
            {
                "response": {
                    "id": self._identity,
                    "object": "response",
                    "status": "failed",
                    "model": self._asked.get("model", ""),
                    "output": [],
                    "error": error,
                    "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
                }
            },
        )

    def _opening(self) -> Iterator[_Event]:
        if not self._began:
            self._began = True
            for name in ("response.created", "response.in_progress"):
                yield name, {"response": self._response("in_progress", [], None)}

    def _numbered(self, name: str, body: dict[str, Any]) -> str:
        numbered = body | {"type": name, "sequence_number": self._sequence}
        self._sequence += 1
        return event(name, as_go_maps(numbered))

    def _events(self, chunk: Mapping[str, Any]) -> Iterator[_Event]:
        message = chunk["message"]
        yield from self._opening()
        if message.get("thinking"):
            yield from self._think(message["thinking"])
        if message.get("tool_calls"):
            yield from self._call(message)
        elif message["content"] and not self._called:
            yield from self._say(message["content"])
        if chunk["done"]:
            yield from self._end(chunk)

    def _think(self, thought: str) -> Iterator[_Event]:
        if not self._thought_item:
            self._thought_item = f"rs_{random.randrange(_IDS)}"
            item = {"id": self._thought_item, "type": "reasoning", "summary": []}
            yield "response.output_item.added", {"output_index": self._index, "item": item}
        self._thought += thought
        where = self._where(self._thought_item) | {"summary_index": 0}
        yield "response.reasoning_summary_text.delta", where | {"delta": thought}

    def _end_thought(self) -> Iterator[_Event]:
        if not self._thought_item:
            return
        item = {
            "id": self._thought_item,
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": self._thought}],
            "encrypted_content": self._thought,
        }
        where = self._where(self._thought_item) | {"summary_index": 0}
        yield "response.reasoning_summary_text.done", where | {"text": self._thought}
        yield "response.output_item.done", {"output_index": self._index, "item": item}
        self._items.append(item)
        self._thought_item = self._thought = ""
        self._index += 1

    def _call(self, message: Mapping[str, Any]) -> Iterator[_Event]:
        yield from self._end_thought()
        self._called = True
        for at, tool in enumerate(tool_calls_of(message)):
            item = _function_call(f"fc_{random.randrange(_IDS)}_{at}", tool)
            arguments, where = item["arguments"], self._where(item["id"])
            opened = item | {"status": "in_progress", "arguments": ""}
            yield "response.output_item.added", {"output_index": self._index, "item": opened}
            yield "response.function_call_arguments.delta", where | {"delta": arguments}
            yield "response.function_call_arguments.done", where | {"arguments": arguments}
            yield "response.output_item.done", {"output_index": self._index, "item": item}
            self._items.append(item)
            self._index += 1

    def _say(self, content: str) -> Iterator[_Event]:
        yield from self._end_thought()
        where = self._where(self._item) | {"content_index": 0}
        if not self._is_text_open:
            self._is_text_open = True
            opened = _spoken(self._item, "") | {"status": "in_progress", "content": []}
            yield "response.output_item.added", {"output_index": self._index, "item": opened}
            yield "response.content_part.added", where | {"part": _part("")}
        self._text += content
        yield "response.output_text.delta", where | {"delta": content, "logprobs": []}

    def _end(self, chunk: Mapping[str, Any]) -> Iterator[_Event]:
        yield from self._end_thought()
        items = list(self._items)
        if self._is_text_open:
            items.append(_spoken(self._item, self._text))
        if self._is_text_open and not self._called:
            where = self._where(self._item) | {"content_index": 0}
            yield "response.output_text.done", where | {"text": self._text, "logprobs": []}
            yield "response.content_part.done", where | {"part": _part(self._text)}
            yield "response.output_item.done", {"output_index": self._index, "item": items[-1]}
        response = self._response("completed", items or None, _usage(chunk))
        yield "response.completed", {"response": response | {"completed_at": int(time.time())}}

    def _where(self, item: str) -> dict[str, Any]:
        return {"item_id": item, "output_index": self._index}

    def _response(
        self, status: str, items: list[dict[str, Any]] | None, usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The whole answer so far; here tools lose their members and effort is never left out."""
        nothing = {"message": {"content": ""}}
        reasoning = _reasoning(self._asked)
        if reasoning is not None:
            reasoning = {"effort": None, "summary": None} | reasoning
        tools = [_declared(tool or {}) for tool in self._asked.get("tools") or ()]
        for tool in tools:
            tool.pop("tools", None)
        return whole_response(self._identity, self._item, nothing, self._asked) | {
            "completed_at": None,
            "status": status,
            "output": items,
            "tools": tools,
            "reasoning": reasoning,
            "usage": usage,
        }


def _output(identity: str, item: str, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = []
    if message.get("thinking"):
        thought = message["thinking"]
        output.append(
            {
                "id": f"rs_{identity}",
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": thought}],
                "encrypted_content": thought,
            }
        )
    calls = tool_calls_of(message)
    output += [_function_call(f"fc_{identity}_{at}", tool) for at, tool in enumerate(calls)]
    return output if calls else [*output, _spoken(item, message["content"])]


def _function_call(identity: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "function_call",
        "status": "completed",
        "call_id": tool["id"],
        "name": tool["function"]["name"],
        "arguments": tool["function"]["arguments"],
    }


def _spoken(identity: str, text: str) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [_part(text)],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _declared(tool: Mapping[str, Any]) -> dict[str, Any]:
    declared = {
        "type": tool.get("type", ""),
        "name": tool.get("name", ""),
        "description": tool.get("description"),
        "strict": tool.get("strict"),
        "parameters": as_go_maps(plain(tool.get("parameters"))),
    }
    members = [_declared(member or {}) for member in tool.get("tools") or ()]
    return declared | ({"tools": members} if members else {})


def _format(asked: Mapping[str, Any]) -> dict[str, Any]:
    given = (asked.get("text") or {}).get("format")
    if given is None:
        return {"type": "text"}
    told: dict[str, Any] = {"type": given.get("type", "")}
    told |= {"name": given["name"]} if given.get("name") else {}
    return told | {key: given[key] for key in ("schema", "strict") if key in given}


def _reasoning(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    given = asked.get("reasoning") or {}
    told = {key: given[key] for key in ("effort", "summary") if given.get(key)}
    return told or None


def _usage(body: Mapping[str, Any]) -> dict[str, Any]:
    read, said = body.get("prompt_eval_count", 0), body.get("eval_count", 0)
    return {
        "input_tokens": read,
        "output_tokens": said,
        "total_tokens": read + said,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
