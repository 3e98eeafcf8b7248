"""An Ollama that is only its list of models, for who tests what is known of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ollama_gate.errors import UpstreamError
from ollama_gate.ollama import Ollama

LISTS = {"general.architecture": "a", "a.attention.head_count_kv": None}


@dataclass(slots=True)
class Manifest:
    """What a name stands for.

    Attributes:
        digest: of the manifest; the model file has a name of its own, which copies share.
        blob: the model file.
        shown: more of `/api/show`; with `verbose` on top of it what is shown verbosely alone.
        listed: more of its line in `/api/tags`.
    """

    digest: str
    blob: str = "a"
    shown: dict[str, Any] = field(default_factory=dict)
    verbose: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)


class ListOllama(Ollama):
    """Answers from `models`, or with what is put into `broken`; `now` is everybody's clock.

    Attributes:
        asked: every question, in the order in which they came: `tags`, `show b`, `show b verbose`.
        broken: the errors that some of these are answered with.
        stamped: whether `modified_at` is told.
    """

    def __init__(self, **models: str) -> None:
        super().__init__("http://127.0.0.1:9")
        self.now = 1000.0
        self.models = {name: Manifest(digest) for name, digest in models.items()}
        self.asked: list[str] = []
        self.broken: dict[str, UpstreamError] = {}
        self.stamped = True
        self._held: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}

    def clock(self) -> float:
        """No two instants are the same."""
        self.now += 1e-6
        return self.now

    async def tags(self) -> list[Mapping[str, Any]]:
        told = [self._line(name, manifest) for name, manifest in self.models.items()]
        await self._hear("tags")
        return told

    async def show(self, name: str, *, verbose: bool = False) -> Mapping[str, Any] | None:
        manifest = self.models.get(name if ":" in name else f"{name}:latest")
        await self._hear(f"show {name} verbose" if verbose else f"show {name}")
        if manifest is None:
            return None
        shown: dict[str, Any] = {
            "modelfile": f"FROM /blobs/sha256-{manifest.blob * 64}",
            "capabilities": ["completion"],
            **manifest.shown,
            **(manifest.verbose if verbose else {}),
        }
        if self.stamped:
            shown["modified_at"] = f"when {manifest.digest} was written"
        return shown

    @contextlib.asynccontextmanager
    async def holding(self, question: str) -> AsyncIterator[asyncio.Event]:
        """Leave a question without its answer for the length of a block; set when it is asked.

        The answer is what was true when it was asked.
        """
        came, goes_on = asyncio.Event(), asyncio.Event()
        self._held[question] = came, goes_on
        try:
            yield came
        finally:
            del self._held[question]
            goes_on.set()

    async def _hear(self, question: str) -> None:
        self.asked.append(question)
        error = self.broken.get(question) or self.broken.get("everything")
        if question in self._held:
            came, goes_on = self._held[question]
            came.set()
            await goes_on.wait()
        if error is not None:
            raise error

    def _line(self, name: str, manifest: Manifest) -> Mapping[str, Any]:
        line: dict[str, Any] = {"name": name, "size": 100, "digest": manifest.digest}
        if self.stamped:
            line["modified_at"] = f"when {manifest.digest} was written"
        return {**line, **manifest.listed}
