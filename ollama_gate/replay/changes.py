"""What may be otherwise than it was: cards, what models take; and who schedules, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ollama_gate.errors import GateError
from ollama_gate.simulator.discrete.workload import CardSpec, ModelSpec, UpstreamSpec, Workload


class ChangeError(GateError):
    """A change cannot be made to this workload; the text says what was expected and found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Other cards, other models; whatever is not named stays as it was.

    Attributes:
        vram_bytes: what every card has for models.
        cards: so many, each with an upstream of its own like the first, and all models on each.
        footprints: by a model's name: what it takes of a card with all its slots, in bytes.
        parallel: slots of every model.
    """

    vram_bytes: int | None = None
    cards: int | None = None
    footprints: Mapping[str, int] = field(default_factory=dict)
    parallel: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is otherwise."""
        return bool(self.vram_bytes or self.cards or self.footprints or self.parallel)

    def of(self, workload: Workload) -> Workload:
        """The workload with them.

        Raises:
            ChangeError: it has no such model.
        """
        names = {model.name for model in workload.models}
        unknown = sorted(set(self.footprints) - names)
        if unknown:
            have = ", ".join(sorted(names))
            raise ChangeError(f"expected a model among {have}, found {', '.join(unknown)}")
        return replace(
            workload,
            models=tuple(self._model(model) for model in workload.models),
            upstreams=self._upstreams(workload.upstreams),
        )

    def _model(self, model: ModelSpec) -> ModelSpec:
        upstreams = frozenset[str]() if self.cards else model.upstreams
        model = replace(model, parallel=self.parallel or model.parallel, upstreams=upstreams)
        footprint = self.footprints.get(model.name)
        if footprint is None:
            return model
        share = footprint / model.footprint_bytes
        return replace(
            model,
            footprint_bytes=footprint,
            estimate_bytes=None,
            predicted_bytes=round(model.tested_bytes * share),
            weights_bytes=round(model.weights_bytes * share),
        )

    def _upstreams(self, upstreams: Sequence[UpstreamSpec]) -> tuple[UpstreamSpec, ...]:
        if self.cards:
            first = replace(upstreams[0], cards=upstreams[0].cards[:1])
            named = [replace(first, name=f"card-{number}") for number in range(1, self.cards)]
            upstreams = (first, *named)
        return tuple(
            replace(upstream, cards=tuple(self._card(card) for card in upstream.cards))
            for upstream in upstreams
        )

    def _card(self, card: CardSpec) -> CardSpec:
        if self.vram_bytes is None:
            return card
        return replace(card, total_bytes=self.vram_bytes, reserve_bytes=0)
