"""What the gate computes of models that were loaded, beside what Ollama then said of them.

`data/observed_ollama.json` is from Ollama 0.32.15 on a machine without a card: models of small
random weights, and three real ones, loaded with several contexts, slots and cache types. A row
is context, slots, cache type, the bytes that `/api/ps` showed as `size`, and in MiB what the
engine said while loading: weights, cache (recurrent state included), buffers (outputs included).
Tensors are grouped: type, shape, in which blocks, names there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ollama_gate.footprint import MIB, Estimate, Facts, Settings, estimate, read_show
from ollama_gate.scheduler.types import Launch

OBSERVED: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "observed_ollama.json").read_text(encoding="utf-8")
)

SHARE, LEAST_BYTES = 0.05, 32 * MIB
"""How far from the truth an estimate may be: the larger of the two."""

ROUNDING_BYTES = MIB // 8
"""The engine rounds each buffer to a hundredth of a MiB, and says up to six of them."""

HIDDEN_CACHES = {"cohere2", "gemma2", "gemma3", "gemma3-270m", "gemma4", "gpt-oss", "olmo3"}
"""Models with a cache for their sliding layers and one for the others: Ollama counts one only."""


@dataclass(frozen=True, slots=True)
class Row:
    """One load of one model; sizes in bytes."""

    context: int
    parallel: int
    kv_type: str
    shown: int
    weights: int
    cache: int
    buffers: int

    @property
    def taken(self) -> int:
        """What the engine allocated."""
        return self.weights + self.cache + self.buffers

    def estimate(self, facts: Facts) -> Estimate:
        """What the gate would have expected of this load, in main memory."""
        launch = Launch(num_ctx=self.context)
        settings = Settings(
            num_parallel=self.parallel, kv_cache_type=self.kv_type, version="0.32.15"
        )
        return estimate(facts, launch, settings, on_cpu_bin=True)


def rows(name: str) -> list[Row]:
    return [
        Row(context, parallel, kv_type, shown, *(int(mib * MIB) for mib in parts))
        for context, parallel, kv_type, shown, *parts in OBSERVED[name]["rows"]
    ]


def tensors(groups: list[list[str]]) -> Iterator[dict[str, Any]]:
    """As `/api/show` lists them, one by one."""
    for kind, shape, blocks, names in groups:
        for block in blocks_of(blocks):
            for name in names.split():
                yield {
                    "name": block + name,
                    "type": kind,
                    "shape": [int(length) for length in shape.split()],
                }


def blocks_of(spans: str) -> Iterator[str]:
    if not spans:
        yield ""
    for span in spans.split():
        first, _, last = span.partition("-")
        for block in range(int(first), int(last or first) + 1):
            yield f"blk.{block}."


def facts_of(name: str) -> Facts:
    model = OBSERVED[name]
    architecture = model["info"]["general.architecture"]
    info = {f"{architecture}.{key}": value for key, value in model["info"].items()}
    info["general.architecture"] = architecture
    show = {
        "model_info": info,
        "tensors": list(tensors(model["tensors"])),
        "capabilities": model["capabilities"],
    }
    return read_show(name, show, model["on_disk"], digest=name)


every_model = pytest.mark.parametrize("name", OBSERVED)


@every_model
def test_what_a_model_takes_is_known_before_it_was_ever_loaded(name: str) -> None:
    facts = facts_of(name)
    for row in rows(name):
        expected = row.estimate(facts).size_vram_bytes
        assert abs(expected - row.taken) <= max(SHARE * row.taken, LEAST_BYTES), row


@every_model
def test_the_cache_is_known_to_the_byte_but_for_rounding(name: str) -> None:
    facts = facts_of(name)
    for row in rows(name):
        assert abs(row.estimate(facts).kv_bytes - row.cache) <= ROUNDING_BYTES, row


@every_model
def test_the_error_bar_covers_what_was_seen(name: str) -> None:
    facts = facts_of(name)
    for row in rows(name):
        guess = row.estimate(facts)
        assert abs(guess.size_vram_bytes - row.taken) <= guess.error_bytes, row


@every_model
def test_one_load_tells_what_every_other_context_takes(name: str) -> None:
    """What does not vary with the context is what was seen, less the cache and the buffers."""
    facts = facts_of(name)
    for seen in rows(name):
        base = seen.taken - varying(seen.estimate(facts))
        for row in rows(name):
            if (row.parallel, row.kv_type) != (seen.parallel, seen.kv_type):
                continue
            guess = row.estimate(facts)
            bar = sum(part.error_bytes for part in guess.parts if part.group != "weights")
            assert abs(base + varying(guess) - row.taken) <= bar + ROUNDING_BYTES, (seen, row)


def varying(guess: Estimate) -> int:
    return guess.kv_bytes + guess.compute_bytes


@every_model
def test_what_ollama_shows_is_all_there_is_or_lacks_one_of_two_caches(name: str) -> None:
    for row in rows(name):
        if name in HIDDEN_CACHES:
            assert row.taken - row.cache - ROUNDING_BYTES < row.shown < row.taken, row
        else:
            assert abs(row.shown - row.taken) <= ROUNDING_BYTES, row


def test_a_flat_multiple_of_the_file_would_not_do() -> None:
    """Which is what the gate is for: the same file takes from little more to thrice its size."""
    shares = [row.taken / OBSERVED[name]["on_disk"] for name in OBSERVED for row in rows(name)]
    assert min(shares) < 1.3
    assert max(shares) > 3
