"""What is computed of a runner against what llama.cpp allocates in its dry-runs.

Each row of the data is one dry-run of llama.cpp b10488, without a load: `n_ctx_total` is over all
sequences, and no outputs means room for the scores of all words after every token.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollama_gate.footprint import MIB, Shape, compute_bytes, kv_bytes, read_show

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class DryRun:
    """One row, and what is computed for it."""

    model: str
    shape: Shape
    context: int
    parallel: int
    batch: int
    flash: bool
    kv_type: str
    outputs: int
    kv_bytes: int
    compute_bytes: int

    @property
    def computed_bytes(self) -> int:
        """The buffers."""
        return compute_bytes(
            self.shape,
            context=self.context,
            batch=self.batch,
            parallel=self.parallel,
            kv_type=self.kv_type,
            flash=self.flash,
            all_outputs=self.outputs == 0,
        )

    def near(self, percent: int, least_bytes: int) -> bool:
        """Whether the buffers are within so many percent, or so many bytes, of llama.cpp's."""
        off = abs(self.computed_bytes - self.compute_bytes)
        return off <= max(self.compute_bytes * percent // 100, least_bytes)


def read_rows() -> Iterator[DryRun]:
    shapes: dict[str, Shape] = {}
    infos = json.loads((DATA / "model_info.json").read_text(encoding="utf-8"))
    for name, info in infos.items():
        shape = read_show(name, {"model_info": info}, 0).shape
        assert shape is not None
        shapes[name] = shape
    with (DATA / "kv_compute_dryrun.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            parallel = int(row["n_seq"])
            yield DryRun(
                model=row["model"],
                shape=shapes[row["model"]],
                context=int(row["n_ctx_total"]) // parallel,
                parallel=parallel,
                batch=int(row["n_ubatch"]),
                flash=row["flash"] == "1",
                kv_type=row["kv_type"],
                outputs=int(row["n_outputs"]),
                kv_bytes=int(row["kv_bytes"]),
                compute_bytes=int(row["compute_bytes"]),
            )


ROWS = list(read_rows())


def test_the_data_is_all_there() -> None:
    assert len(ROWS) == 1624
    assert len({row.model for row in ROWS}) == 35


def test_every_cache_is_what_llama_cpp_allocates_to_the_byte() -> None:
    for row in ROWS:
        computed = kv_bytes(
            row.shape,
            context=row.context,
            parallel=row.parallel,
            batch=row.batch,
            kv_type=row.kv_type,
        )
        assert computed == row.kv_bytes, row


def share(rows: list[DryRun], fits: Callable[[DryRun], bool]) -> float:
    return sum(map(fits, rows)) / len(rows)


WITH_FLASH = [row for row in ROWS if row.flash and row.outputs]


def test_buffers_with_flash_attention_are_within_5_percent_or_32_mib() -> None:
    assert len(WITH_FLASH) == 896
    assert share(WITH_FLASH, lambda row: row.near(5, 32 * MIB)) >= 0.95


def test_the_worst_of_them_are_near_as_well() -> None:
    far = [row for row in WITH_FLASH if not row.near(8, 1 * MIB)]
    assert far == []
    assert share(WITH_FLASH, lambda row: row.near(1, 0)) >= 0.95


def test_buffers_with_flash_attention_are_hardly_ever_too_small() -> None:
    short = max(row.compute_bytes - row.computed_bytes for row in WITH_FLASH)
    assert short < MIB // 16


@pytest.mark.parametrize("encoder", ["all-minilm", "mxbai-embed-large", "nomic-embed-text"])
@pytest.mark.parametrize("flash", [True, False])
def test_an_encoders_buffers_are_what_llama_cpp_allocates(encoder: str, *, flash: bool) -> None:
    rows = [row for row in ROWS if row.model == encoder and row.flash is flash]
    assert len(rows) == 4
    assert all(row.near(1, 0) for row in rows)


def test_buffers_without_flash_attention_are_near_too() -> None:
    rows = [row for row in ROWS if not row.flash and row.outputs]
    assert len(rows) == 320
    assert all(row.near(5, 32 * MIB) for row in rows)
    assert share(rows, lambda row: row.near(1, 0)) >= 0.9


def test_room_for_all_scores_is_counted_where_it_is_kept() -> None:
    rows = [row for row in ROWS if not row.outputs and row.shape.cached]
    assert len(rows) == 384
    assert share(rows, lambda row: row.near(5, 32 * MIB)) >= 0.99
    assert all(row.near(8, 45 * MIB) for row in rows)
