"""What one upstream is like, and what a model takes there: the figures that all else rests on.

It knows neither requests nor runners.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_gate import footprint, names
from ollama_gate.config import Config, ModelConfig, UpstreamConfig
from ollama_gate.experience import Experience
from ollama_gate.footprint import Facts, Settings
from ollama_gate.footprint.explained import Source
from ollama_gate.known import Known
from ollama_gate.outlook import Times
from ollama_gate.scheduler.types import Bin, Launch, ModelKey, Need

REMEMBERED: Final = 1000
"""How many models with options of their own are remembered with what they come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What was worked out, and from what."""

    facts: Facts
    settings: Settings
    revision: int

    def holds(self, facts: Facts, settings: Settings, revision: int) -> bool:
        """Whether it would come to the same again."""
        return self.facts is facts and self.settings is settings and self.revision == revision


class Terms:
    """Of one upstream.

    Args:
        config: what is in effect.
        upstream: how that one is set up.
        bins: where its models may be.
        experience: what was seen of it.
        known: its models.

    Attributes:
        settings: what of it decides footprints; another object whenever one of them changes.
    """

    def __init__(
        self,
        *,
        config: Config,
        upstream: UpstreamConfig,
        bins: Sequence[Bin],
        experience: Experience,
        known: Known,
    ) -> None:
        self.bins = tuple(bins)
        self.experience = experience
        self.book = experience.book
        self.settings = Settings(
            num_parallel=upstream.num_parallel,
            kv_cache_type=upstream.kv_cache_type,
            context_length=upstream.context_length,
            safety=config.vram.safety,
        )
        self._known = known
        self._models = {names.key_of(name): model for name, model in config.models.items()}
        self._pinned = {name for name, model in self._models.items() if model.pin}

    def note(self, **changed: Any) -> None:
        """Take in what of the settings was found to be otherwise, or to be as it was."""
        settings = replace(self.settings, **changed)
        if settings != self.settings:
            self.settings = settings

    def own(self, name: str) -> ModelConfig | None:
        """What is configured of a model, in any spelling of its name."""
        return self._models.get(names.key_of(name))

    def need(self, facts: Facts, launch: Launch, bin_: Bin) -> tuple[Need, Source]:
        """What a runner with these options takes in a bin, and how that is known."""
        need, source = self.book.need(
            facts,
            launch,
            self.settings,
            configured_bytes=self.configured_bytes(facts),
            on_cpu_bin=bin_.cpu,
        )
        return replace(need, load_s=self.experience.load_s(facts.key)), source

    def configured_bytes(self, facts: Facts) -> int | None:
        """What a model takes by configuration, if anything is said of it."""
        own = self.own(facts.name)
        return own.vram_bytes if own else None

    def parallel(self, facts: Facts) -> int:
        """How many requests one runner of a model may serve at once."""
        slots = footprint.parallel_of(facts, self.settings.num_parallel)
        own = self.own(facts.name)
        return min(slots, own.max_concurrent) if own and own.max_concurrent else slots

    def is_pinned(self, facts: Facts) -> bool:
        """Whether a model is to stay, under whichever of its names that was said."""
        if not self._pinned:
            return False
        found = {facts.name, *self.names_of(facts.key)}
        return not self._pinned.isdisjoint(map(names.key_of, found))

    def names_of(self, model: ModelKey) -> list[str]:
        """The names by which a runner can be reached, as far as they are known."""
        known = self._known.models()
        return [one.line.name for one in known if one.facts is not None and one.facts.key == model]

    def times(self, model: ModelKey) -> Times:
        """How long things took with a model, on average."""
        past = self.experience.times(model)
        return Times(
            load_s=None if past.load is None else past.load.seconds,
            unload_s=None if past.unload is None else past.unload.seconds,
            service_s=None if past.service is None else past.service.seconds,
        )
