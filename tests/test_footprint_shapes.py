"""How architectures differ, against what llama.cpp logged when it loaded a small model of each.

The loads are of models with random weights, on a CPU with flash attention (llama.cpp b10566 under
Ollama v0.32.15); the figures are the sums of its "buffer size" lines.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from ollama_gate.footprint import (
    MIB,
    Facts,
    Settings,
    compute_bytes,
    estimate,
    kv_bytes,
    predicted_by_ollama,
    read_show,
)
from ollama_gate.footprint.shape import Shape
from ollama_gate.scheduler.types import Launch

DATA = Path(__file__).parent / "data"
LOADS: dict[str, Any] = json.loads((DATA / "small_loads.json").read_text(encoding="utf-8"))


def shape_of(info: dict[str, Any]) -> Shape:
    shape = read_show("m", {"model_info": info}, 0).shape
    assert shape is not None
    return shape


def described(architecture: str, **keys: Any) -> dict[str, Any]:
    """`model_info` of a small model; a double underscore stands for a dot."""
    plain = {
        "block_count": 8,
        "embedding_length": 512,
        "attention__head_count": 8,
        "attention__head_count_kv": 2,
        "feed_forward_length": 1536,
    }
    named = {name.replace("__", "."): value for name, value in (plain | keys).items()}
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{name}": value for name, value in named.items() if value != "absent"},
    }


@pytest.mark.parametrize("name", LOADS)
def test_the_cache_of_a_loaded_model_was_as_computed(name: str) -> None:
    shape = shape_of(LOADS[name]["model_info"])
    for load in LOADS[name]["loads"]:
        computed = kv_bytes(
            shape,
            context=load["num_ctx"],
            parallel=load["parallel"],
            batch=load["batch"],
            kv_type=load["kv_type"],
        )
        # The log has two decimals, on as many as three lines.
        assert abs(computed / MIB - load["kv_mib"]) < 0.02, load


@pytest.mark.parametrize("name", LOADS)
def test_the_buffers_of_a_loaded_model_were_near_what_is_computed(name: str) -> None:
    shape = shape_of(LOADS[name]["model_info"])
    for load in LOADS[name]["loads"]:
        computed = compute_bytes(
            shape,
            context=load["num_ctx"],
            batch=load["batch"],
            parallel=load["parallel"],
            kv_type=load["kv_type"],
            all_outputs=shape.pooled and shape.cached,
        )
        off = computed / MIB - load["compute_mib"]
        assert -0.05 * load["compute_mib"] - 0.5 < off < 0.16 * load["compute_mib"] + 1, load


# ------------------------------------------------------------------------- layers of several kinds


def test_a_listed_pattern_of_sliding_layers_is_believed() -> None:
    listed = [True] * 7 + [False]
    info = described(
        "gemma3", attention__sliding_window=512, attention__sliding_window_pattern=listed
    )
    assert shape_of(info).local == tuple(listed)


@pytest.mark.parametrize(
    ("architecture", "full"),
    [("gemma3", [5]), ("gpt-oss", [1, 3, 5, 7]), ("cohere2", [3, 7]), ("smallthinker", [0, 4])],
)
def test_which_layers_slide_goes_by_the_architecture(architecture: str, full: list[int]) -> None:
    shape = shape_of(described(architecture, attention__sliding_window=512))
    assert [layer for layer, local in enumerate(shape.local) if not local] == full


def test_a_period_in_the_file_goes_before_that_of_the_architecture() -> None:
    info = described("gemma3", attention__sliding_window=512, attention__sliding_window_pattern=2)
    assert shape_of(info).local == (True, False) * 4


@pytest.mark.parametrize("architecture", ["phi3", "qwen2", "llama"])
def test_a_window_that_llama_cpp_does_not_use_changes_nothing(architecture: str) -> None:
    with_window = shape_of(described(architecture, attention__sliding_window=512))
    assert not any(with_window.local)


def test_some_windows_are_known_though_no_file_names_them() -> None:
    assert shape_of(described("llama4")).window == 8192
    assert not any(shape_of(described("llama4", attention__sliding_window=0)).local)


def test_layers_that_use_the_cache_of_others_have_none() -> None:
    shared = shape_of(described("gemma4", attention__shared_kv_layers=3))
    assert shared.kv_heads == (2,) * 5 + (0,) * 3
    gemma3n = shape_of(described("gemma3n", block_count=30, attention__sliding_window=512))
    assert gemma3n.kv_heads == (2,) * 20 + (0,) * 10


def test_one_layer_in_four_of_a_hybrid_has_attention() -> None:
    shape = shape_of(described("qwen3next", ssm__inner_size=64))
    assert shape.kv_heads == (0, 0, 0, 2) * 2
    assert shape.recurrent == (True, True, True, False) * 2
    every_other = shape_of(described("qwen35", full_attention_interval=2))
    assert every_other.recurrent == (True, False) * 4


def test_layers_that_only_draft_keep_no_state() -> None:
    shape = shape_of(described("qwen35", block_count=9, nextn_predict_layers=1))
    assert shape.recurrent[-1] is False


def test_a_recurrent_model_needs_no_heads() -> None:
    info = described(
        "rwkv7",
        attention__head_count="absent",
        attention__head_count_kv="absent",
        wkv__head_size=64,
    )
    shape = shape_of(info)
    assert shape.kv_heads == (0,) * 8
    cache = kv_bytes(shape, context=4096, parallel=2, batch=512, kv_type="f16")
    assert cache == 2 * 8 * 4 * 512 * (2 + 64)


def test_a_linear_attention_layer_keeps_a_square_for_each_head() -> None:
    kv_heads = [0, 0, 0, 1, 0, 0, 0, 1]
    info = described(
        "kimi-linear",
        attention__head_count_kv=kv_heads,
        kda__head_dim=32,
        ssm__conv_kernel=4,
    )
    assert shape_of(info).recurrent_bytes == 4 * 8 * 32 * (3 * 3 + 32)


def test_keys_by_which_attention_chooses_are_cached_as_well() -> None:
    plain = shape_of(described("deepseek2"))
    sparse = shape_of(described("deepseek2", attention__indexer__key_length=128))

    def size(shape: Shape) -> int:
        return kv_bytes(shape, context=4096, parallel=1, batch=512, kv_type="f16")

    assert size(sparse) - size(plain) == 8 * 2 * 128 * 2 * 4096


@pytest.mark.parametrize(
    "key",
    ["attention__head_count_kv", "attention__recurrent_layers"],
)
def test_without_a_list_that_ollama_withholds_there_is_no_shape(key: str) -> None:
    facts = read_show("m", {"model_info": described("qwen35", **{key: None})}, 1000)
    assert facts.shape is None
    assert facts.withheld


def test_a_withheld_pattern_is_done_without_and_asked_for() -> None:
    info = described(
        "gemma4", attention__sliding_window=512, attention__sliding_window_pattern=None
    )
    facts = read_show("m", {"model_info": info}, 1000)
    assert facts.withheld
    assert facts.shape is not None
    assert not any(facts.shape.local)


def test_a_list_that_came_empty_was_withheld_too() -> None:
    facts = read_show("m", {"model_info": described("lfm2", attention__head_count_kv=[])}, 1000)
    assert facts.withheld
    assert facts.shape is None


@pytest.mark.parametrize("layers", [0, 5000, None])
def test_no_model_has_no_layers_or_thousands(layers: int | None) -> None:
    assert read_show("m", {"model_info": described("llama", block_count=layers)}, 0).shape is None


def test_a_list_of_another_length_than_the_layers_is_no_list() -> None:
    info = described("lfm2", attention__head_count_kv=[0, 2])
    assert read_show("m", {"model_info": info}, 0).shape is None


# ----------------------------------------------------------------------------- how sure all this is


def facts_of(architecture: str, **keys: Any) -> Facts:
    return read_show("m", {"model_info": described(architecture, **keys)}, 1_000_000_000)


def test_an_unknown_architecture_is_computed_and_not_trusted() -> None:
    known, new = (
        estimate(facts_of(name), Launch(num_ctx=4096), Settings()) for name in ("llama", "new")
    )
    assert known.total_bytes == new.total_bytes
    assert [part.error_bytes for part in known.parts if part.what == "kv"] == [0]
    doubtful = [part for part in new.parts if part.what in {"kv", "compute"}]
    assert all(part.error_bytes >= part.bytes * 2 // 5 for part in doubtful)
    assert all("architecture" in part.source for part in doubtful)


def test_an_architecture_that_was_only_read_is_trusted_less() -> None:
    checked, known = (
        estimate(facts_of(name), Launch(num_ctx=32_768), Settings()) for name in ("llama", "olmo")
    )
    assert checked.compute_bytes == known.compute_bytes
    assert checked.error_bytes < known.error_bytes


def test_ollama_predicts_with_the_fewest_heads_and_never_with_none() -> None:
    facts = facts_of("lfm2", attention__head_count_kv=[0, 0, 2, 0, 0, 2, 0, 2])
    predicted = predicted_by_ollama(facts, Launch(num_ctx=4096), Settings())
    assert predicted == 1_000_000_000 + 4 * 8 * 1 * 64 * 4096
    hybrid = predicted_by_ollama(facts_of("qwen35"), Launch(num_ctx=4096), Settings())
    assert hybrid == 1_000_000_000 + 4 * 8 * 2 * 64 * 4096
