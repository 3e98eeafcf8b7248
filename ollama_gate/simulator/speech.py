"""An answer in the making: pieces of text in their time, then what it cost.

Where the model runs does not matter here: a runner on this machine and the cloud are both voices.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ollama_gate.simulator import babble
from ollama_gate.simulator.clock import NS, Clock

_CLOUD_TOKENS_PER_S = 80.0
_THOUGHT_SHARE = 3  # of an answer that thinks first, one part in so many is thought


class Voice(Protocol):
    """Something that reads a prompt and speaks token by token."""

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Its turn with whoever else is served."""

    async def read_prompt(self, tokens: int) -> None:
        """Take the time for it."""

    def speak(self, tokens: int) -> AsyncIterator[int]:
        """Count tokens as they come."""


class CloudVoice:
    """A model that runs elsewhere and needs nothing here."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Always at once."""
        return contextlib.nullcontext()

    async def read_prompt(self, tokens: int) -> None:
        """A short while."""
        await self._clock.sleep(tokens / _CLOUD_TOKENS_PER_S / 30)

    async def speak(self, tokens: int) -> AsyncIterator[int]:
        """At a steady rate."""
        for index in range(tokens):
            await self._clock.sleep(1 / _CLOUD_TOKENS_PER_S)
            yield index


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What decides an answer.

    Attributes:
        key: the same key is answered the same.
        limit: tokens at most; negative for none.
        length: tokens it has by itself.
        form: `format` of the request: "json", a schema, or nothing.
        stops: texts that end the answer and are not said themselves.
        tool: the tool that is called instead of an answer: its name and its arguments.
        has_gap: whether the mark that ends a thought shows, as an object without text.
        top_logprobs: how many alternatives each token is given; `None` without logprobs.
    """

    key: str
    prompt_tokens: int
    limit: int
    length: int
    thinks: bool
    form: Any
    top_logprobs: int | None
    stops: tuple[str, ...] = ()
    tool: tuple[str, dict[str, Any]] | None = None
    has_gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token; of a tool call's tokens only the last shows anything."""

    content: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    is_gap: bool = False

    @property
    def is_shown(self) -> bool:
        """Whether Ollama sends an object for it."""
        return self.is_gap or bool(
            self.content or self.thinking or self.logprobs or self.tool_calls
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it ended and what it took."""

    reason: str
    prompt_tokens: int
    prompt_ns: int
    answer_tokens: int
    answer_ns: int


async def speech(voice: Voice, clock: Clock, question: Question) -> AsyncIterator[Piece | Ending]:
    """The pieces, then exactly one ending.

    Raises:
        RunnerDiedError: where the process ends first.
    """
    pieces, reason = _words(question)
    async with voice.slot():
        began_s = clock.now()
        await voice.read_prompt(question.prompt_tokens)
        read_s = clock.now()
        async for index in voice.speak(len(pieces)):
            if pieces[index].is_shown:
                yield pieces[index]
        yield Ending(
            reason=reason,
            prompt_tokens=question.prompt_tokens,
            prompt_ns=max(1, int((read_s - began_s) * NS)),
            answer_tokens=len(pieces),
            answer_ns=max(1, int((clock.now() - read_s) * NS)),
        )


def _words(question: Question) -> tuple[list[Piece], str]:
    thoughts, words, reason = *_thought_and_said(question), "stop"
    words = _stopped(words, question.stops)
    if 0 < question.limit <= len(thoughts) + len(words):  # 0 is no limit either
        words = words[: max(0, question.limit - len(thoughts))]
        thoughts, reason = thoughts[: question.limit], "length"
    top = question.top_logprobs
    pieces = [Piece(thinking=word, logprobs=_logprobs(word, top)) for word in thoughts]
    if thoughts and words and question.has_gap:
        pieces.append(Piece(is_gap=True))
    if question.tool is None or reason == "length":  # half a call is no call
        pieces += [Piece(content=word, logprobs=_logprobs(word, top)) for word in words]
        return pieces, reason
    pieces += [Piece(logprobs=_logprobs(word, top)) for word in words]
    pieces[-1] = replace(pieces[-1], tool_calls=(_tool_call(question),))
    return pieces, reason


def _thought_and_said(question: Question) -> tuple[list[str], list[str]]:
    if question.form is not None:
        said = babble.json_answer(question.key, question.form)
    elif question.tool is not None:
        name, arguments = question.tool
        said = babble.in_tokens(json.dumps({"name": name, "arguments": arguments}))
    else:
        said = babble.answer(question.key, question.length)
    if not question.thinks:
        return [], said
    thoughts = len(said) // _THOUGHT_SHARE
    if question.form is None and question.tool is None:
        return said[:thoughts], said[thoughts:]
    return babble.answer(f"thought {question.key}", max(1, thoughts)), said


def _stopped(words: list[str], stops: tuple[str, ...]) -> list[str]:
    """The words up to the first stop, which may begin and end within one."""
    text = "".join(words)
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not ends:
        return words
    kept, length = [], 0
    for word in words:
        if length + len(word) > min(ends):
            break
        kept.append(word)
        length += len(word)
    rest = text[length : min(ends)]
    return [*kept, rest] if rest else kept


def _tool_call(question: Question) -> dict[str, Any]:
    assert question.tool is not None
    name, arguments = question.tool
    return {
        "id": babble.identity("call_", question.key),
        "function": {"index": 0, "name": name, "arguments": arguments},
    }


def _logprobs(word: str, top: int | None) -> list[dict[str, Any]] | None:
    if top is None:
        return None
    alternatives = [{"token": f"{word}{at or ''}", "logprob": -0.25 - at} for at in range(top)]
    for token in (entry := {"token": word, "logprob": -0.25}, *alternatives):
        token["bytes"] = list(str(token["token"]).encode())
    return [entry | ({"top_logprobs": alternatives} if alternatives else {})]
