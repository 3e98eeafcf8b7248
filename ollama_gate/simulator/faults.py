"""What goes wrong on demand, and what was counted.

Faults are ordered here and happen where the world looks them up; nothing of this is reachable
over HTTP.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.refs import parse_name


@dataclass(slots=True)
class Counters:
    """What happened so far.

    Attributes:
        loads: runners that came up.
        failed_loads: attempts that did not, aborted ones included.
        unloads: runners that were ended by Ollama.
        offloaded_loads: loads meant for the GPU that ended up at least partly on the CPU.
        rejected: requests answered 503 because the queue was full.
        served: inference requests answered to the end with status 200.
        served_offloaded: those of them from a runner that had slid onto the CPU, in part or whole.
        cards: whose peak is watched.
        journal: each load that came up (`load`), each runner that Ollama ended (`unload`), and
            each that went with it when it died (`lost`), in their order, with the model's name.
    """

    cards: tuple[Card, ...] = field(repr=False)

    loads: int = 0
    failed_loads: int = 0
    unloads: int = 0
    offloaded_loads: int = 0
    rejected: int = 0
    served: int = 0
    served_offloaded: int = 0
    journal: list[tuple[str, str]] = field(default_factory=list, repr=False)

    @property
    def peak_bytes(self) -> int:
        """The most that was ever in use on the first card, foreign memory included."""
        return self.cards[0].peak_bytes if self.cards else 0


@dataclass(slots=True)
class _LoadFailure:
    text: str
    times: int


@dataclass(slots=True)
class Faults:
    """Faults to come, by model; names are read as Ollama reads them.

    Attributes:
        kill: ends the named model's runner at once (set by the world that has the runners).
    """

    kill: Callable[[str, str], None]
    _load_failures: dict[str, _LoadFailure] = field(default_factory=dict)
    _kill_after: dict[str, tuple[int, str]] = field(default_factory=dict)
    _kill_in_prompt: dict[str, str] = field(default_factory=dict)
    _pull_failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    _misread: dict[str, int] = field(default_factory=dict)
    _before_load: dict[str, Callable[[], None]] = field(default_factory=dict)
    _after_load: dict[str, Callable[[], None]] = field(default_factory=dict)
    _in_load: dict[str, Callable[[], None]] = field(default_factory=dict)
    _hung: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    def fail_load(self, model: str, text: str, times: int = 1) -> None:
        """Let the next `times` loads of `model` fail; `text` is the error, word for word.

        A text that speaks of lost memory is treated as Ollama treats it: everything else is
        evicted and the load tried once more.
        """
        self._load_failures[_key(model)] = _LoadFailure(text, times)

    def misreport(self, model: str, size_bytes: int) -> None:
        """Let Ollama read that size, however absurd, of every runner of `model` to come."""
        self._misread[_key(model)] = size_bytes

    def misread(self, model: str) -> int | None:
        """What Ollama reads instead of the size; `None` where it reads what is written."""
        return self._misread.get(_key(model))

    def in_load(self, model: str, happens: Callable[[], None]) -> None:
        """Let something happen in the middle of the next load of `model`."""
        self._in_load[_key(model)] = happens

    def before_load(self, model: str, happens: Callable[[], None]) -> None:
        """Let something happen when Ollama has decided to load `model`, and nobody looked again."""
        self._before_load[_key(model)] = happens

    def begins_to_load(self, model: str) -> None:
        """Let happen what was to; uses it up."""
        self._before_load.pop(_key(model), _nothing)()

    def after_load(self, model: str, happens: Callable[[], None]) -> None:
        """Let something happen in the moment in which a load of `model` has succeeded."""
        self._after_load[_key(model)] = happens

    def has_loaded(self, model: str) -> None:
        """Let happen what was to; uses it up."""
        self._after_load.pop(_key(model), _nothing)()

    def half_loaded(self, model: str) -> None:
        """Let happen what was to; uses it up."""
        self._in_load.pop(_key(model), _nothing)()

    def fail_pull(self, model: str, text: str, lines: int = 0) -> None:
        """Let the next pull of `model` break off with `text` after so many lines of progress."""
        self._pull_failures[_key(model)] = (lines, text)

    def pull_failure(self, model: str) -> tuple[int, str] | None:
        """After how many lines this pull of `model` breaks off, and its text; uses it up."""
        return self._pull_failures.pop(_key(model), None)

    def kill_runner(self, model: str, text: str = "unexpected EOF") -> None:
        """Let the runner die now; `text` is what its running answers break off with."""
        self.kill(_key(model), text)

    def kill_runner_after(self, model: str, chunks: int, text: str = "unexpected EOF") -> None:
        """Let the runner die when an answer of its has given so many chunks from now on."""
        self._kill_after[_key(model)] = (chunks, text)

    def kill_runner_in_prompt(self, model: str, text: str = "") -> None:
        """Let the runner die under the next prompt, or text to embed, that it reads.

        Ollama tells of it what the process said last: `text`.
        """
        self._kill_in_prompt[_key(model)] = text

    def hang(self, model: str) -> None:
        """Let answers of `model` stand still, now and to come, until `unhang`."""
        self._hung[_key(model)].clear()

    def unhang(self, model: str) -> None:
        """Let them go on."""
        self._hung.pop(_key(model), asyncio.Event()).set()

    def load_failure(self, model: str) -> str | None:
        """The text with which this load of `model` fails, if it does; uses it up."""
        failure = self._load_failures.get(_key(model))
        if failure is None or failure.times <= 0:
            return None
        failure.times -= 1
        return failure.text

    def prompt_passes(self, model: str) -> str | None:
        """The text with which `model` dies of this prompt, if it does; uses it up."""
        return self._kill_in_prompt.pop(_key(model), None)

    def chunk_passes(self, model: str) -> str | None:
        """Count a chunk of `model`; the text to die with where it was the last."""
        remaining = self._kill_after.get(_key(model))
        if remaining is None:
            return None
        chunks, text = remaining
        if chunks <= 0:
            del self._kill_after[_key(model)]
            return text
        self._kill_after[_key(model)] = (chunks - 1, text)
        return None

    def standstill(self, model: str) -> asyncio.Event | None:
        """What a hung model's answers wait for; `None` where it is well."""
        return self._hung.get(_key(model))


def _nothing() -> None:
    pass


def _key(model: str) -> str:
    return parse_name(model).full().lower()
