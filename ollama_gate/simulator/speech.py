"""An answer in the making: pieces of text in their time, then what it cost.

Where the model runs does not matter here: a runner on this machine and the cloud are both voices.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
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
        top_logprobs: how many alternatives each token is given; `None` without logprobs.
    """

    key: str
    prompt_tokens: int
    limit: int
    length: int
    thinks: bool
    form: Any
    top_logprobs: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token."""

    content: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None


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
            yield pieces[index]
        yield Ending(
            reason=reason,
            prompt_tokens=question.prompt_tokens,
            prompt_ns=max(1, int((read_s - began_s) * NS)),
            answer_tokens=len(pieces),
            answer_ns=max(1, int((clock.now() - read_s) * NS)),
        )


def _words(question: Question) -> tuple[list[Piece], str]:
    if question.form is not None:
        words = babble.json_answer(question.key, question.form)
    else:
        words = babble.answer(question.key, question.length)
    reason = "stop"
    if 0 < question.limit <= len(words):  # 0 is no limit either
        words, reason = words[: question.limit], "length"
    thoughts = len(words) // _THOUGHT_SHARE if question.thinks and question.form is None else 0
    return [
        Piece(
            content=word if at >= thoughts else "",
            thinking=word if at < thoughts else "",
            logprobs=_logprobs(word, question.top_logprobs),
        )
        for at, word in enumerate(words)
    ], reason


def _logprobs(word: str, top: int | None) -> list[dict[str, Any]] | None:
    if top is None:
        return None
    alternatives = [{"token": f"{word}{at or ''}", "logprob": -0.25 - at} for at in range(top)]
    for token in (entry := {"token": word, "logprob": -0.25}, *alternatives):
        token["bytes"] = list(str(token["token"]).encode())
    return [entry | ({"top_logprobs": alternatives} if alternatives else {})]
