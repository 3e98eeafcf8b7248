"""The JSON objects that `/api/generate` and `/api/chat` answer with.

Fields stand in the order of Go's structs and empty ones are left out where Go leaves them out
(Ollama v0.32.15 api/types.go, `GenerateResponse` and `ChatResponse`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ollama_gate.simulator import babble
from ollama_gate.simulator.catalog import Model
from ollama_gate.simulator.clock import NS
from ollama_gate.simulator.speech import Ending, Piece
from ollama_gate.simulator.world import World, timestamp


class Objects(ABC):
    """Spells one answer, object by object.

    Args:
        name: what the answer calls the model: the client's own spelling.
        began_s: when the request came, by the simulation's clock; made when its runner is there.
        stub: the cloud model that answers in place of the named one.
        prompt: text that `context` begins with; without it there is none.
    """

    def __init__(
        self,
        world: World,
        name: str,
        *,
        began_s: float = 0.0,
        stub: Model | None = None,
        prompt: str | None = None,
        vocabulary: int = 1,
    ) -> None:
        self._clock = world.clock
        self._began_s = began_s
        self._ready_s = world.clock.now()
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._head = {"model": name}
        if stub is not None:
            self._head |= {"remote_model": stub.remote_model, "remote_host": stub.remote_host}

    def bare(self, reason: str) -> dict[str, Any]:
        """The answer to a request that only loads or unloads."""
        return self._open("", "") | {"done": True, "done_reason": reason}

    def piece(self, piece: Piece) -> dict[str, Any]:
        """One token's object."""
        opened = self._open(piece.content, piece.thinking, piece.tool_calls) | {"done": False}
        return opened | ({"logprobs": piece.logprobs} if piece.logprobs else {})

    @abstractmethod
    def ending(self, ending: Ending, said: str) -> dict[str, Any]:
        """The last object; `said` is all that went before."""

    @abstractmethod
    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """All objects as one, for a request that does not stream."""

    @abstractmethod
    def _text(
        self, content: str, thinking: str, tool_calls: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """The part of an object that carries text or calls a tool."""

    def _open(
        self, content: str, thinking: str, tool_calls: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        said = self._text(content, thinking, tool_calls)
        return self._head | {"created_at": timestamp()} | said

    def _metrics(self, ending: Ending) -> dict[str, int]:
        metrics = {
            "total_duration": self._ns_since(self._began_s),
            "load_duration": max(1, int((self._ready_s - self._began_s) * NS)),
            "prompt_eval_count": ending.prompt_tokens,
            "prompt_eval_duration": ending.prompt_ns,
            "eval_count": ending.answer_tokens,
            "eval_duration": ending.answer_ns,
        }
        return {key: value for key, value in metrics.items() if value}

    def _ns_since(self, moment_s: float) -> int:
        return max(1, int((self._clock.now() - moment_s) * NS))


class Generated(Objects):
    """`GenerateResponse`."""

    def _text(
        self,
        content: str,
        thinking: str,
        tool_calls: Sequence[dict[str, Any]] = (),  # noqa: ARG002 (no tools are offered here)
    ) -> dict[str, Any]:
        return {"response": content} | ({"thinking": thinking} if thinking else {})

    def ending(self, ending: Ending, said: str) -> dict[str, Any]:
        """The last object, with the conversation as tokens."""
        opened = self.bare(ending.reason)
        if self._prompt is not None:
            opened["context"] = babble.token_ids(self._prompt + said, self._vocabulary)
        return opened | self._metrics(ending)

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """All objects as one."""
        content = "".join(chunk["response"] for chunk in chunks)
        thinking = "".join(chunk.get("thinking", "") for chunk in chunks)
        logprobs = [entry for chunk in chunks for entry in chunk.get("logprobs", ())]
        last = chunks[-1]
        text = self._text(content, thinking)
        rest = {key: last[key] for key in last if key not in {*self._head, "created_at", *text}}
        whole = self._head | {"created_at": last["created_at"]} | text | rest
        return whole | ({"logprobs": logprobs} if logprobs else {})


class Chatted(Objects):
    """`ChatResponse`."""

    def _text(
        self, content: str, thinking: str, tool_calls: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        message |= {"thinking": thinking} if thinking else {}
        return {"message": message | ({"tool_calls": list(tool_calls)} if tool_calls else {})}

    def ending(self, ending: Ending, said: str) -> dict[str, Any]:  # noqa: ARG002 (chat has no context)
        """The last object."""
        return self.bare(ending.reason) | self._metrics(ending)

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """All objects as one."""
        messages = [chunk["message"] for chunk in chunks]
        text = self._text(
            "".join(message["content"] for message in messages),
            "".join(message.get("thinking", "") for message in messages),
            [tool for message in messages for tool in message.get("tool_calls", ())],
        )
        logprobs = [entry for chunk in chunks for entry in chunk.get("logprobs", ())]
        last = chunks[-1]
        metrics = {
            key: value for key, value in last.items() if key.endswith(("_count", "duration"))
        }
        whole = self._head | {"created_at": last["created_at"]} | text
        whole |= {"done": True, "done_reason": last["done_reason"]}
        return whole | ({"logprobs": logprobs} if logprobs else {}) | metrics
