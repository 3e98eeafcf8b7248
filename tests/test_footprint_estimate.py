"""The sum and its parts: what each is from, how far off it may be, and laws that hold for all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_gate.footprint import (
    GGUF_HEADER_BYTES,
    GIB,
    MIB,
    PROCESS_BYTES,
    PROJECTOR_GRAPH_BYTES,
    Estimate,
    Facts,
    Part,
    Settings,
    batch_of,
    estimate,
    kv_bytes,
    read_show,
)
from ollama_gate.scheduler.types import Launch

DATA = Path(__file__).parent / "data"
INFOS: dict[str, Any] = json.loads((DATA / "model_info.json").read_text(encoding="utf-8"))
CARD = Settings(total_bytes=24 * GIB, context_length=4096)

LISTED = {
    # Size on disk; then GB of size_vram at 4k, 8k, 32k and 128k tokens or the trained length, and
    # at 4k for each of four slots.
    "smollm-135m": (91_739_413, 0.16, 0.16, 0.16, 0.16, 0.31),
    "smollm-360m": (229_137_813, 0.34, 0.34, 0.34, 0.34, 0.62),
    "all-minilm": (45_960_996, 0.06, 0.06, 0.06, 0.06, 0.06),
    "nomic-embed-text": (274_302_450, 0.38, 0.38, 0.38, 0.38, 0.38),
    "mxbai-embed-large": (669_615_493, 0.70, 0.70, 0.70, 0.70, 0.70),
    "qwen2.5-0.5b": (397_821_319, 0.49, 0.59, 0.94, 0.94, 0.68),
    "tinyllama-1.1b": (637_700_138, 0.74, 0.74, 0.74, 0.74, 0.93),
    "llama3.2-1b": (1_321_098_329, 1.53, 1.74, 2.60, 6.42, 2.00),
    "gemma-2b": (1_678_456_656, 1.88, 2.08, 2.08, 2.08, 2.22),
    "qwen2.5-1.5b": (986_061_892, 1.18, 1.37, 2.13, 2.13, 1.60),
    "qwen2.5-3b": (1_929_912_432, 2.17, 2.42, 3.37, 3.37, 2.71),
    "llama3.2-3b": (2_019_393_189, 2.57, 3.13, 6.00, 17.89, 4.06),
    "gemma2-2b": (1_629_518_495, 2.15, 2.51, 2.51, 2.51, 3.53),
    "qwen3-0.6b": (522_653_767, 1.02, 1.53, 4.40, 5.50, 2.46),
    "qwen3-1.7b": (1_359_293_444, 1.89, 2.42, 5.29, 6.44, 3.36),
    "qwen3-4b": (2_497_293_931, 3.19, 3.88, 7.56, 22.68, 5.08),
    "qwen3-8b": (5_225_388_164, 5.94, 6.67, 10.34, 11.87, 7.87),
    "qwen3-14b": (9_276_198_565, 10.10, 10.93, 15.01, 16.75, 12.27),
    "qwen3-32b": (20_201_253_588, 21.48, 22.76, 29.26, 31.90, 24.90),
    "gemma3-270m": (291_554_930, 0.34, 0.39, 0.52, 0.52, 0.48),
    "gemma3-1b": (815_319_791, 0.91, 1.00, 1.16, 1.16, 1.13),
    "gemma3-4b": (3_338_801_804, 3.69, 3.93, 4.49, 7.26, 4.82),
    "gemma3-12b": (8_149_190_253, 9.05, 9.63, 11.29, 18.79, 12.17),
    "mistral-7b": (4_372_824_384, 5.04, 5.71, 8.98, 8.98, 6.77),
    "llama3.1-8b": (4_920_753_328, 5.58, 6.25, 9.53, 23.12, 7.32),
    "qwen2.5-7b": (4_683_087_332, 5.07, 5.46, 6.92, 6.92, 5.92),
    "gemma2-9b": (5_443_152_417, 6.97, 7.98, 7.98, 7.98, 11.32),
    "gpt-oss-20b": (13_780_173_839, 14.02, 14.27, 14.92, 18.07, 14.55),
    "qwen2.5-32b": (19_851_349_856, 21.14, 22.44, 28.93, 28.93, 24.58),
    "llama3.1-70b": (42_520_413_916, 44.11, 45.71, 53.81, 86.98, 48.38),
}
"""What people who loaded these reported agrees with the table within -2 and +8 %."""


@pytest.mark.parametrize("name", LISTED)
def test_what_ollama_shows_is_as_listed(name: str) -> None:
    size_bytes, *columns = LISTED[name]
    facts = read_show(name, {"model_info": INFOS[name]}, size_bytes)
    asked = [(4096, 1), (8192, 1), (32_768, 1), (131_072, 1), (4096, 4)]
    for (num_ctx, slots), listed in zip(asked, columns, strict=True):
        some = Settings(num_parallel=slots)
        got = estimate(facts, Launch(num_ctx=num_ctx), some).size_vram_bytes / 1e9
        # The last digit of the list, and buffers within 5 % or 32 MiB; of gpt-oss the list has
        # them a fifth too large, as llama.cpp's dry-runs show.
        share = 0.21 if name == "gpt-oss-20b" else 0.05
        compute = estimate(facts, Launch(num_ctx=num_ctx), some).compute_bytes / 1e9
        assert abs(got - listed) < 0.006 + max(share * compute, 0.0336), (num_ctx, slots)


# ---------------------------------------------------------------------------------- the whole sum


def facts(**changes: Any) -> Facts:
    """Llama 3.1 8B with its tensors known."""
    read = read_show("llama3.1:8b", {"model_info": INFOS["llama3.1-8b"]}, 4_920_753_328)
    known = replace(read, weights_bytes=4_600_000_000, tensors_bytes=4_900_000_000)
    return replace(known, **changes)


def part(whole: Estimate, what: str) -> Part:
    return next(part for part in whole.parts if part.what == what)


def test_a_sum_says_what_each_part_is_from() -> None:
    whole = estimate(facts(), Launch(), CARD)
    assert [(each.what, each.source) for each in whole.parts] == [
        ("weights", "tensors of /api/show"),
        ("kv", "llama.cpp's cache formula"),
        ("compute", "fit to llama.cpp's dry-runs"),
        ("process", "457 MiB, as Ollama sets aside (ml/device.go)"),
    ]
    assert (whole.num_ctx, whole.parallel, whole.batch) == (4096, 1, 512)
    assert whole.source == "estimated"
    assert whole.size_vram_bytes == whole.total_bytes - PROCESS_BYTES


def test_weights_by_the_files_size_are_less_sure() -> None:
    by_file = estimate(facts(weights_bytes=None, tensors_bytes=None), Launch(), CARD)
    weights = part(by_file, "weights")
    assert weights.source == "file size of /api/tags"
    assert weights.error_bytes == weights.bytes * 8 // 100
    assert part(estimate(facts(), Launch(), CARD), "weights").error_bytes < weights.error_bytes


def test_what_was_learned_of_a_card_stands_in_for_the_guess() -> None:
    learned = estimate(facts(), Launch(), replace(CARD, overhead_bytes=333 * MIB))
    process = part(learned, "process")
    assert (process.bytes, process.source) == (333 * MIB, "learned on this card")
    assert process.error_bytes == 0


def test_a_safety_factor_is_a_part_of_its_own() -> None:
    plain = estimate(facts(), Launch(), CARD)
    safe = estimate(facts(), Launch(), replace(CARD, safety=1.1))
    assert safe.total_bytes == int(plain.total_bytes * 1.1)
    assert safe.size_vram_bytes == plain.size_vram_bytes
    assert part(safe, "safety").source == "vram.safety 1.1"
    bold = estimate(facts(), Launch(), replace(CARD, safety=0.9))
    assert bold.total_bytes < plain.total_bytes


def test_a_projector_is_never_reported_and_far_from_sure() -> None:
    seeing = estimate(facts(projector_bytes=600 * MIB), Launch(), CARD)
    plain = estimate(facts(), Launch(), CARD)
    assert seeing.total_bytes - plain.total_bytes == 600 * MIB + PROJECTOR_GRAPH_BYTES
    assert seeing.size_vram_bytes == plain.size_vram_bytes
    assert part(seeing, "projector buffers").error_bytes > 800 * MIB


def test_an_adapters_file_is_never_reported_either() -> None:
    tensors = [{"name": "output.weight", "type": "F16", "shape": [1000, 1000]}]
    inside = 2_000_000
    answer = {"modelfile": "FROM /m\nADAPTER /a\n", "tensors": tensors}
    adapted = read_show("m", answer, inside + GGUF_HEADER_BYTES + 90_000)
    assert adapted.adapters_bytes == 90_000
    assert adapted.size_bytes == inside + GGUF_HEADER_BYTES
    assert part(estimate(adapted, Launch(), CARD), "adapters").bytes == 90_000


def test_a_file_that_drafts_is_loaded_beside_the_model() -> None:
    tensors = [{"name": "output.weight", "type": "F16", "shape": [1000, 1000]}]
    inside, beside = 2_000_000 + GGUF_HEADER_BYTES, 900 * MIB
    answer = {"modelfile": "FROM /m\nDRAFT /d\n", "tensors": tensors}
    drafted = read_show("m", answer, inside + beside)
    assert (drafted.size_bytes, drafted.draft_bytes) == (inside, beside)
    draft = part(estimate(drafted, Launch(), CARD), "draft")
    assert (draft.bytes, draft.error_bytes) == (beside, beside * 2 // 5)


def test_a_projector_is_seen_behind_a_draft() -> None:
    answer = {"modelfile": "FROM /m\nADAPTER /a\nDRAFT /d\nFROM /p\n"}
    assert read_show("m", answer, 1000).parameters.extras == ("/a", "/p")


def test_what_takes_nothing_has_no_parts_and_no_error() -> None:
    nothing = estimate(facts(remote=True), Launch(), CARD)
    assert nothing == Estimate()
    assert (nothing.total_bytes, nothing.error) == (0, 0.0)


def test_a_model_nobody_knows_is_guessed_within_two_fifths() -> None:
    blank = facts(shape=None, weights_bytes=None, tensors_bytes=None)
    whole = estimate(blank, Launch(num_ctx=4096), CARD)
    expected = 4_920_753_328 * 1.25 + GIB / 2
    assert abs(whole.total_bytes - expected) < 16 * MIB
    assert 0.35 < whole.error < 0.45
    assert whole.batch == 0


def test_a_guess_counts_the_context_of_every_slot() -> None:
    blank = facts(shape=None, weights_bytes=None, tensors_bytes=None)
    one = estimate(blank, Launch(num_ctx=8192), CARD)
    two = estimate(blank, Launch(num_ctx=4096), replace(CARD, num_parallel=2))
    assert two.kv_bytes == one.kv_bytes == blank.size_bytes // 10


def test_a_model_in_safetensors_takes_a_seventh_more_than_its_files() -> None:
    answer = {"details": {"format": "safetensors"}}
    mlx = read_show("m", answer, 1_000_000_000)
    whole = estimate(mlx, Launch(), CARD)
    assert whole.size_vram_bytes == 1_150_000_000
    assert "safetensors" in part(whole, "compute").source


# ---------------------------------------------------------------------------- how Ollama is set up


def test_an_old_ollama_keeps_room_for_the_scores_of_all_words() -> None:
    assert facts().shape is not None
    new = estimate(facts(), Launch(num_ctx=4096), replace(CARD, version="0.32.15"))
    old = estimate(facts(), Launch(num_ctx=4096), replace(CARD, version="0.24.0"))
    assert new == estimate(facts(), Launch(num_ctx=4096), CARD)
    assert old.compute_bytes > 4 * 512 * 128_256 > new.compute_bytes


def test_an_old_ollamas_batch_does_not_grow_with_the_context() -> None:
    old = replace(CARD, version="0.24.0")
    assert batch_of(facts(), Launch(num_ctx=32_768), old) == 512
    assert batch_of(facts(pooling=True), Launch(num_ctx=8192), old) == 8192
    assert batch_of(facts(), Launch(num_ctx=32_768), replace(CARD, version="what?")) == 1024


def test_without_flash_attention_scores_are_kept_and_the_batch_is_small() -> None:
    launch = Launch(num_ctx=32_768)
    slow = replace(CARD, flash_attention=False)
    assert batch_of(facts(), launch, slow) == 512
    assert batch_of(facts(), launch, replace(slow, total_bytes=8 * GIB)) == 256
    assert batch_of(facts(), Launch(num_ctx=4096), replace(slow, total_bytes=8 * GIB)) == 512
    with_scores = estimate(facts(), launch, slow).compute_bytes
    assert with_scores > 4 * estimate(facts(), launch, CARD).compute_bytes


def test_no_batch_is_longer_than_what_there_is_to_read() -> None:
    assert batch_of(facts(), Launch(num_ctx=128), CARD) == 128


def test_an_embedding_model_that_could_chat_keeps_all_scores() -> None:
    info = INFOS["qwen3-0.6b"] | {"qwen3.pooling_type": 3}
    embedder = read_show("qwen3-embedding", {"model_info": info}, 639_000_000)
    whole = estimate(embedder, Launch(num_ctx=4096), CARD)
    assert whole.parallel == 1
    assert whole.compute_bytes > 4 * 2048 * 151_936


# --------------------------------------------------------------------------------------------- laws

MODELS = st.sampled_from(sorted(INFOS))
CONTEXTS = st.integers(1, 131_072)
KV_TYPES = st.sampled_from(["f32", "f16", "q8_0", "q4_0", "unheard of"])
SETTINGS = st.builds(
    Settings,
    num_parallel=st.integers(1, 8),
    kv_cache_type=KV_TYPES,
    context_length=st.integers(0, 65_536),
    total_bytes=st.none() | st.integers(0, 96 * GIB),
    safety=st.floats(1, 2),
    overhead_bytes=st.none() | st.integers(0, GIB),
    flash_attention=st.booleans(),
    version=st.sampled_from(["", "0.32.15", "0.24.0"]),
)


def anything(name: str, size_bytes: int = 3_000_000_000) -> Facts:
    return replace(read_show(name, {"model_info": INFOS[name]}, size_bytes), context_length=None)


@given(name=MODELS, num_ctx=CONTEXTS, batch=st.integers(1, 4096), some=SETTINGS, cpu=st.booleans())
@settings(deadline=None)
def test_a_sum_is_that_of_its_parts_and_none_is_negative(
    name: str, num_ctx: int, batch: int, some: Settings, cpu: bool
) -> None:
    whole = estimate(anything(name), Launch(num_ctx=num_ctx, num_batch=batch), some, on_cpu_bin=cpu)
    groups = whole.weights_bytes + whole.kv_bytes + whole.compute_bytes + whole.overhead_bytes
    assert whole.total_bytes == groups == sum(part.bytes for part in whole.parts)
    assert whole.size_vram_bytes <= whole.total_bytes
    assert all(part.bytes >= 0 and part.error_bytes >= 0 and part.source for part in whole.parts)
    assert whole.error >= 0


@given(name=MODELS, num_ctx=CONTEXTS, more=CONTEXTS, some=SETTINGS)
@settings(deadline=None)
def test_more_context_never_takes_less(name: str, num_ctx: int, more: int, some: Settings) -> None:
    def size(context: int) -> int:
        launch = Launch(num_ctx=context, num_batch=256)
        return estimate(anything(name), launch, some).total_bytes

    assert size(num_ctx) <= size(num_ctx + more)


@given(name=MODELS, num_ctx=CONTEXTS, some=SETTINGS)
@settings(deadline=None)
def test_more_slots_never_take_less(name: str, num_ctx: int, some: Settings) -> None:
    def size(slots: int) -> int:
        launch = Launch(num_ctx=num_ctx, num_batch=256)
        many = replace(some, num_parallel=slots)
        return estimate(anything(name), launch, many).total_bytes

    assert size(some.num_parallel) <= size(some.num_parallel + 1)


@given(name=MODELS, num_ctx=CONTEXTS, batch=st.integers(1, 2048), some=SETTINGS)
@settings(deadline=None)
def test_a_larger_batch_never_takes_less(
    name: str, num_ctx: int, batch: int, some: Settings
) -> None:
    def size(batch: int) -> int:
        launch = Launch(num_ctx=num_ctx, num_batch=batch)
        return estimate(anything(name), launch, some).total_bytes

    assert size(batch) <= size(2 * batch)


@given(name=MODELS, num_ctx=CONTEXTS, slots=st.integers(1, 8), batch=st.integers(1, 2048))
@settings(deadline=None)
def test_fewer_bits_never_make_a_larger_cache(
    name: str, num_ctx: int, slots: int, batch: int
) -> None:
    shape = anything(name).shape
    assert shape is not None
    sizes = [
        kv_bytes(shape, context=num_ctx, parallel=slots, batch=batch, kv_type=kv_type)
        for kv_type in ("q4_0", "q8_0", "f16", "f32")
    ]
    assert sizes == sorted(sizes)


@given(name=MODELS, num_ctx=CONTEXTS)
@settings(deadline=None)
def test_no_context_counts_beyond_the_trained_one(name: str, num_ctx: int) -> None:
    trained = read_show(name, {"model_info": INFOS[name]}, 3_000_000_000)
    assert trained.context_length is not None
    most = estimate(trained, Launch(num_ctx=trained.context_length), CARD)
    whole = estimate(trained, Launch(num_ctx=num_ctx), CARD)
    assert whole.num_ctx == min(num_ctx, trained.context_length) or whole.num_ctx == 4
    assert whole.kv_bytes <= most.kv_bytes


def test_numbers_that_count_nothing_are_done_without() -> None:
    info: dict[str, Any] = {"general.architecture": "llama"}
    dimensions = {"block_count": 8, "embedding_length": 512, "attention.head_count": 8}
    info |= {f"llama.{key}": value for key, value in dimensions.items()}
    plain = estimate(read_show("m", {"model_info": info}, GIB), Launch(), CARD)
    info |= {"llama.context_length": 10**400, "llama.attention.key_length": 1e300}
    tensors = [{"name": "a", "type": "F16", "shape": [10**18] * 20}]
    absurd = read_show("m", {"model_info": info, "tensors": tensors}, GIB)
    assert estimate(absurd, Launch(), CARD) == plain
