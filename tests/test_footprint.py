"""What a runner takes: read, computed, seen. The figures are llama.cpp's and Ollama's own."""

import json
import math
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
    Book,
    Facts,
    Resident,
    Settings,
    Shape,
    batch_of,
    default_context,
    effective_context,
    estimate,
    kv_bytes,
    merge,
    parallel_of,
    predicted_by_ollama,
    read_ps,
    read_show,
)
from ollama_gate.scheduler.types import Launch
from tests.models import model

DATA = Path(__file__).parent / "data"

LLAMA_1B_BYTES = 1_321_098_329
"""`size` in /api/tags."""

SMALL = Settings(total_bytes=12 * GIB)
MIDDLE = Settings(total_bytes=24 * GIB)


def load_json(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def show(name: str, size_bytes: int = 0) -> Facts:
    return read_show(name, load_json(f"show_{name}.json"), size_bytes, digest="d1")


def llama_1b() -> Facts:
    return show("llama3.2_1b", LLAMA_1B_BYTES)


def without_parameters(facts: Facts) -> Facts:
    return replace(facts, parameters=Launch())


SHAPES: dict[str, Shape] = {}
for _name, _info in load_json("model_info.json").items():
    _shape = read_show(_name, {"model_info": _info}, 0).shape
    assert _shape is not None
    SHAPES[_name] = _shape


# Shapes


def test_an_unknown_cache_type_runs_as_f16() -> None:
    def size(kv_type: str) -> int:
        shape = SHAPES["llama3.2-1b"]
        return kv_bytes(shape, context=4096, parallel=1, batch=512, kv_type=kv_type)

    assert size("q3_magic") == size("f16") == 2 * size("q8_0") * 32 // 34


def test_a_listed_pattern_of_sliding_layers_is_believed() -> None:
    info = dict(load_json("model_info.json")["gemma3-1b"])
    info["gemma3.attention.sliding_window_pattern"] = [True] * 25 + [False]
    shape = read_show("g", {"model_info": info}, 0).shape
    assert shape is not None
    assert shape.local == (True,) * 25 + (False,)


def test_layers_of_an_unknown_pattern_count_as_full() -> None:
    info = {
        "general.architecture": "new",
        "new.block_count": 2,
        "new.embedding_length": 256,
        "new.attention.head_count": 4,
        "new.attention.sliding_window": 512,
    }
    shape = read_show("n", {"model_info": info}, 0).shape
    assert shape is not None
    assert shape.local == (False, False)
    assert shape.kv_heads == (4, 4)


def test_of_layers_that_differ_in_width_the_widest_counts() -> None:
    info = dict(load_json("model_info.json")["llama3.2-1b"])
    info["llama.feed_forward_length"] = [4096, 8192.0, None, 2048.5]
    shape = read_show("m", {"model_info": info}, 0).shape
    assert shape == SHAPES["llama3.2-1b"]


# /api/show


def test_a_model_is_known_by_the_blob_of_its_file() -> None:
    facts = llama_1b()
    assert facts.key == "sha256-" + ("7ab" * 22)[:64]
    assert facts.name == "llama3.2_1b"
    assert facts.size_bytes == LLAMA_1B_BYTES
    assert facts.family == facts.architecture == "llama"
    assert facts.context_length == 131_072
    assert facts.capabilities == {"completion", "tools"}
    assert not facts.remote
    assert not facts.pooling


def test_parameters_of_the_modelfile_are_options_of_the_runner() -> None:
    assert llama_1b().parameters == Launch(num_ctx=8192, use_mmap=False)


def test_lines_of_a_template_are_no_files() -> None:
    assert llama_1b().parameters.extras == ()


def test_a_projector_and_an_adapter_are_told_from_the_model() -> None:
    size_bytes = 4_733_363_377
    facts = show("llava", size_bytes)
    assert facts.key == "sha256-" + "17" * 32
    assert [extra[-4:] for extra in facts.parameters.extras] == ["adad", "7272"]
    assert facts.tensors_bytes is not None
    assert facts.size_bytes == facts.tensors_bytes + GGUF_HEADER_BYTES
    assert facts.projector_bytes == size_bytes - facts.size_bytes
    assert 570 * MIB < facts.projector_bytes < 600 * MIB


def test_a_projector_inside_the_file_is_not_reported_and_still_counts() -> None:
    tensors = [
        {"name": "token_embd.weight", "type": "F16", "shape": [100, 10]},
        {"name": "output.weight", "type": "F16", "shape": [100, 10]},
        {"name": "v.blk.0.attn_k.weight", "type": "F16", "shape": [64, 64]},
        {"name": "mm.input_projection.weight", "type": "F32", "shape": [8]},
    ]
    facts = read_show("g", {"tensors": tensors}, 20_000)
    assert facts.size_bytes == 20_000
    assert facts.weights_bytes == 2000
    assert facts.tensors_bytes == 4000
    assert facts.projector_bytes == 2 * 64 * 64 + 32


def test_an_embedding_model_has_no_cache_and_one_slot() -> None:
    facts = show("all-minilm", 45_960_996)
    assert facts.pooling
    assert facts.context_length == 512
    assert parallel_of(facts, 4) == 1
    assert estimate(facts, Launch(), SMALL).kv_bytes == 0


def test_a_model_that_runs_elsewhere_takes_nothing() -> None:
    facts = show("cloud", 384)
    assert facts.remote
    assert facts.key == "digest:d1"
    need, _ = Book().need(facts, Launch(), SMALL)
    assert (need.footprint_bytes, need.predicted_bytes) == (0, 0)


def test_a_withheld_list_is_not_taken_for_zero() -> None:
    facts = show("lfm2", 730_000_000)
    assert facts.shape is None
    assert facts.context_length == 128_000
    assert estimate(facts, Launch(), SMALL).kv_bytes == 730_000_000 // 20
    assert predicted_by_ollama(facts, Launch(), SMALL) == 730_000_000 * 21 // 20


def test_a_model_without_a_file_is_known_by_its_digest_or_its_name() -> None:
    assert read_show("m", {}, 0, digest="abc").key == "digest:abc"
    assert read_show("m", {"modelfile": "FROM other"}, 0).key == "name:m"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
INFO_KEYS = [
    "embedding_length_per_layer_input",
    "context_length",
    "feed_forward_length",
    "full_attention_interval",
    "pooling_type",
    "vocab_size",
    "nextn_predict_layers",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.causal",
    "attention.key_length_mla",
    "attention.kv_lora_rank",
    "attention.recurrent_layers",
    "attention.shared_kv_layers",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_count",
    "leading_dense_block_count",
    "kda.head_dim",
    "shortconv.l_cache",
    "ssm.inner_size",
    "ssm.conv_kernel",
    "ssm.group_count",
    "ssm.state_size",
    "wkv.head_size",
]


def info_of(architecture: str) -> st.SearchStrategy[dict[str, Any]]:
    """Sizes small enough to be a model's in half of the keys, and anything at all in the rest."""
    sizes = st.integers(0, 5000) | st.lists(st.integers(0, 9), max_size=9)
    return st.fixed_dictionaries(
        {
            "general.architecture": st.just(architecture) | JSON,
            f"{architecture}.block_count": st.integers(0, 9) | JSON,
            f"{architecture}.embedding_length": st.integers(0, 5000) | JSON,
            f"{architecture}.attention.head_count": st.integers(0, 9) | JSON,
        },
        optional={f"{architecture}.{key}": sizes | JSON for key in INFO_KEYS},
    )


INFO = st.sampled_from(
    ["x", "bert", "gemma3", "gemma3n", "llama4", "mamba", "nemotron_h", "qwen35", "rwkv7"]
).flatmap(info_of)
TENSORS = st.lists(
    st.fixed_dictionaries(
        {}, optional={"name": JSON, "type": st.sampled_from(["F16", "Q4_K", "?"]), "shape": JSON}
    ),
    max_size=3,
)
SHOWS = st.fixed_dictionaries(
    {},
    optional={
        "model_info": INFO | JSON,
        "tensors": TENSORS | JSON,
        "modelfile": JSON | st.sampled_from(["FROM", "FROM x\nFROM y\nADAPTER z"]),
        "parameters": JSON | st.just("num_ctx many\nnum_gpu 0\nuse_mmap true\nnum_batch"),
        "details": JSON,
        "projector_info": JSON,
        "capabilities": JSON,
        "remote_host": JSON,
    },
)


@given(answer=SHOWS, size_bytes=st.integers(0, 2**40), on_cpu_bin=st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_answer_of_show_is_too_odd_to_plan_with(
    answer: dict[str, Any], size_bytes: int, on_cpu_bin: bool
) -> None:
    facts = read_show("m", answer, size_bytes)
    need, source = Book().need(facts, Launch(), Settings(), on_cpu_bin=on_cpu_bin)
    assert source == "estimated"
    assert need.predicted_bytes >= 0
    free = facts.remote or (facts.parameters.on_cpu and not on_cpu_bin)
    assert need.footprint_bytes >= (0 if free else min(size_bytes, facts.size_bytes) // 2)


# Weights


def llama_8b_tensors() -> list[dict[str, Any]]:
    """Llama 3 8B as Q4_K_M quantises it: some layers' values and projections get six bits."""
    tensors: list[dict[str, Any]] = [
        {"name": "token_embd.weight", "type": "Q4_K", "shape": [4096, 128_256]},
        {"name": "output.weight", "type": "Q6_K", "shape": [4096, 128_256]},
        {"name": "output_norm.weight", "type": "F32", "shape": [4096]},
    ]
    for layer in range(32):
        better = layer < 4 or layer >= 28 or (layer - 4) % 3 == 2
        parts = [
            ("attn_norm", "F32", [4096]),
            ("ffn_norm", "F32", [4096]),
            ("attn_q", "Q4_K", [4096, 4096]),
            ("attn_k", "Q4_K", [4096, 1024]),
            ("attn_v", "Q6_K" if better else "Q4_K", [4096, 1024]),
            ("attn_output", "Q4_K", [4096, 4096]),
            ("ffn_gate", "Q4_K", [4096, 14336]),
            ("ffn_up", "Q4_K", [4096, 14336]),
            ("ffn_down", "Q6_K" if better else "Q4_K", [14336, 4096]),
        ]
        tensors += [
            {"name": f"blk.{layer}.{name}.weight", "type": kind, "shape": shape}
            for name, kind, shape in parts
        ]
    return tensors


def test_the_weights_on_a_card_are_those_of_a_published_log() -> None:
    # llama.cpp logs: CUDA0 model buffer 4403.49 MiB, CPU_Mapped model buffer 281.81 MiB.
    facts = read_show("llama3:8b", {"tensors": llama_8b_tensors()}, 0)
    assert facts.weights_bytes is not None
    assert facts.tensors_bytes is not None
    assert round(facts.weights_bytes / MIB, 2) == 4403.49
    assert round((facts.tensors_bytes - facts.weights_bytes) / MIB, 2) == 281.81


def test_a_tied_output_layer_is_on_the_card_as_well() -> None:
    facts = llama_1b()
    assert facts.weights_bytes == facts.tensors_bytes


def test_a_cpu_keeps_a_second_copy_of_four_bit_matrices() -> None:
    facts = read_show("llama3:8b", {"tensors": llama_8b_tensors()}, 0)
    four_bits = [each for each in llama_8b_tensors() if each["type"] == "Q4_K"]
    elements = sum(math.prod(each["shape"]) for each in four_bits[1:])
    assert facts.repacked_bytes == elements * 144 // 256
    whole = estimate(facts, Launch(), Settings(), on_cpu_bin=True)
    assert facts.tensors_bytes is not None
    assert whole.weights_bytes == facts.tensors_bytes + facts.repacked_bytes
    assert estimate(facts, Launch(), SMALL).weights_bytes == facts.weights_bytes


def test_a_tied_output_layer_is_copied_as_well() -> None:
    embedding = {"name": "token_embd.weight", "type": "Q4_0", "shape": [64, 32]}
    vector = {"name": "output_norm.weight", "type": "Q4_0", "shape": [64]}
    facts = read_show("m", {"tensors": [embedding, vector]}, 0)
    assert facts.repacked_bytes == 64 * 32 * 18 // 32


def test_an_embedding_model_has_no_output_layer_to_tie() -> None:
    answer = load_json("show_all-minilm.json") | {
        "tensors": [
            {"name": "token_embd.weight", "type": "F16", "shape": [384, 100]},
            {"name": "blk.0.attn_q.weight", "type": "F16", "shape": [384, 384]},
        ]
    }
    assert read_show("m", answer, 0).weights_bytes == 2 * 384 * 384


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "new", "type": "Q9_Z", "shape": [4]},
        {"name": "new", "type": "F16", "shape": [4, "x"]},
        {"name": "new", "type": "F16", "shape": None},
        "new",
    ],
)
def test_a_tensor_that_cannot_be_read_leaves_the_file_to_go_by(odd: Any) -> None:
    tensors = [*llama_8b_tensors(), odd]
    facts = read_show("m", {"tensors": tensors}, 5_000_000_000)
    assert facts.weights_bytes is None
    assert facts.size_bytes == 5_000_000_000


# The context in effect


@pytest.mark.parametrize(
    ("configured", "total_bytes", "expected"),
    [
        (0, None, 4096),
        (0, 23 * GIB - 1, 4096),
        (0, 23 * GIB, 32_768),
        (0, 47 * GIB, 262_144),
        (16_384, 80 * GIB, 16_384),
    ],
)
def test_the_context_nobody_named_goes_by_the_cards(
    configured: int, total_bytes: int | None, expected: int
) -> None:
    assert default_context(configured, total_bytes) == expected


def test_the_context_is_the_requests_then_the_modelfiles_then_the_default() -> None:
    facts = model(parameters=Launch(num_ctx=8192))
    assert effective_context(facts, Launch(num_ctx=2048), default_ctx=4096) == 2048
    assert effective_context(facts, Launch(), default_ctx=4096) == 8192
    assert effective_context(model(), Launch(), default_ctx=4096) == 4096


def test_the_context_is_never_beyond_the_trained_one() -> None:
    facts = model(context_length=2048)
    assert effective_context(facts, Launch(), default_ctx=32_768) == 2048
    assert effective_context(facts, Launch(num_ctx=999_999), default_ctx=4096) == 2048
    assert merge(facts, Launch(num_ctx=999_999)).num_ctx == 2048


def test_the_context_has_a_floor_and_pictures_have_a_higher_one() -> None:
    assert effective_context(model(), Launch(num_ctx=0), default_ctx=4096) == 4
    seeing = model(capabilities=frozenset({"vision"}))
    assert effective_context(seeing, Launch(num_ctx=512), default_ctx=4096) == 2048


def test_a_request_overrides_the_modelfile_option_by_option() -> None:
    facts = model(parameters=Launch(num_gpu=10, num_thread=4, use_mmap=True, extras=("a",)))
    launch = merge(facts, Launch(num_gpu=0, use_mmap=False))
    assert launch == Launch(num_gpu=0, num_thread=4, use_mmap=False, extras=("a",))
    assert merge(facts, Launch()) == facts.parameters


@pytest.mark.parametrize("family", ["mllama", "qwen35moe", "lfm2", "nemotron_h_moe"])
def test_some_families_never_get_a_second_slot(family: str) -> None:
    assert parallel_of(model(family=family), 4) == 1
    assert parallel_of(model(architecture=family), 4) == 1
    assert parallel_of(model(), 4) == 4


# The batch


@pytest.mark.parametrize(
    ("context", "expected"), [(4096, 512), (4097, 1024), (32_768, 1024), (32_769, 2048)]
)
def test_a_longer_context_gets_a_larger_batch(context: int, expected: int) -> None:
    roomy = Settings(total_bytes=80 * GIB)
    assert batch_of(model(), Launch(num_ctx=context), roomy) == expected
    assert batch_of(model(), Launch(num_ctx=context), Settings()) == expected


def test_the_batch_steps_down_where_memory_is_short() -> None:
    # File and cache: 4 GB and 131,072 bytes for each token, so 8.3 GB at 32,769.
    launch = Launch(num_ctx=32_769)
    assert batch_of(model(), launch, Settings(total_bytes=14 * 10**9)) == 2048
    assert batch_of(model(), launch, Settings(total_bytes=13 * 10**9)) == 1024
    assert batch_of(model(), launch, Settings(total_bytes=11 * 10**9)) == 512


def test_a_larger_batch_must_leave_room_for_what_it_costs() -> None:
    # File and cache: 5.07 GB at 8192; 768 MiB more must stay within 80 %.
    launch = Launch(num_ctx=8192)
    assert batch_of(model(), launch, Settings(total_bytes=7_400_000_000)) == 1024
    assert batch_of(model(), launch, Settings(total_bytes=7_000_000_000)) == 512


def test_slots_multiply_the_context_that_the_batch_goes_by() -> None:
    four = Settings(num_parallel=4, total_bytes=80 * GIB)
    assert batch_of(model(), Launch(num_ctx=4096), four) == 1024


def test_a_batch_that_was_asked_for_is_used() -> None:
    assert batch_of(model(), Launch(num_batch=128), SMALL) == 128
    assert batch_of(model(), Launch(num_batch=8192, num_ctx=2048), SMALL) == 2048


def test_an_embedding_models_batch_is_its_context() -> None:
    assert batch_of(show("all-minilm", 45_960_996), Launch(), SMALL) == 256
    assert batch_of(model(pooling=True), Launch(num_ctx=8192), SMALL) == 2048


# The estimate


def test_a_small_models_estimate_is_near_what_was_reported() -> None:
    # Reported for llama3.2:1b at 4096: 1.515 GB of size_vram.
    guess = estimate(without_parameters(llama_1b()), Launch(), SMALL)
    reported = guess.total_bytes - guess.overhead_bytes
    assert abs(reported - 1.515e9) < 0.01e9
    assert guess.overhead_bytes == PROCESS_BYTES == 457 * MIB
    assert guess.source == "estimated"


def test_without_tensors_the_file_stands_for_the_weights() -> None:
    facts = model(weights_bytes=None, tensors_bytes=None)
    assert estimate(facts, Launch(), SMALL).weights_bytes == facts.size_bytes
    assert estimate(facts, Launch(), SMALL, on_cpu_bin=True).weights_bytes == facts.size_bytes


def test_on_a_cpu_all_weights_count_and_no_cuda_process() -> None:
    guess = estimate(model(), Launch(num_gpu=0), Settings(), on_cpu_bin=True)
    assert guess.weights_bytes == 3_990_000_000
    assert guess.overhead_bytes == 0
    assert guess.kv_bytes == 131_072 * 4096


def test_a_model_kept_off_the_card_takes_none_of_it() -> None:
    need, _ = Book().need(model(), Launch(num_gpu=0), SMALL)
    assert (need.footprint_bytes, need.predicted_bytes) == (0, 0)


def test_a_projector_adds_what_ollama_does_not_report() -> None:
    facts = model(projector_bytes=600 * MIB)
    unseen = 600 * MIB + PROJECTOR_GRAPH_BYTES
    assert estimate(facts, Launch(), SMALL).overhead_bytes == unseen + PROCESS_BYTES
    assert estimate(facts, Launch(), SMALL, on_cpu_bin=True).overhead_bytes == unseen


def test_an_unknown_architecture_is_guessed_from_its_file() -> None:
    guess = estimate(model(shape=None, weights_bytes=None), Launch(num_ctx=8192), SMALL)
    expected = 4e9 * 1.2 + 4e9 * 0.05 * 2 + GIB / 2
    assert abs(guess.total_bytes - expected) < 16 * MIB


SIZES = st.integers(4, 131_072)


@given(context=SIZES, more=SIZES, slots=st.integers(1, 8), on_cpu_bin=st.booleans())
@settings(max_examples=60, deadline=None)
def test_more_context_or_more_slots_never_take_less(
    context: int, more: int, slots: int, on_cpu_bin: bool
) -> None:
    def size(context: int, slots: int) -> int:
        launch = Launch(num_ctx=context, num_batch=512)
        many = Settings(num_parallel=slots)
        return estimate(model(), launch, many, on_cpu_bin=on_cpu_bin).total_bytes

    assert size(context, slots) <= size(min(131_072, context + more), slots)
    assert size(context, slots) <= size(context, slots + 1)


# Ollama's own prediction


def test_ollama_predicts_the_file_and_an_f16_cache() -> None:
    # 32 layers, 8 heads of 4096/32, keys and values of two bytes each.
    expected = 4_000_000_000 + 131_072 * 4096 * 2
    quantised = Settings(num_parallel=2, kv_cache_type="q4_0", total_bytes=12 * GIB)
    assert predicted_by_ollama(model(), Launch(), quantised) == expected


def test_ollama_charges_for_a_large_batch_that_was_asked_for() -> None:
    plain = predicted_by_ollama(model(), Launch(num_ctx=40_000), MIDDLE)
    medium = predicted_by_ollama(model(), Launch(num_ctx=40_000, num_batch=1024), MIDDLE)
    large = predicted_by_ollama(model(), Launch(num_ctx=40_000, num_batch=2048), MIDDLE)
    assert (medium - plain, large - plain) == (768 * MIB, 2 * GIB)
    embedding = model(pooling=True)
    large = predicted_by_ollama(embedding, Launch(num_ctx=40_000, num_batch=2048), MIDDLE)
    assert large == plain


def test_ollama_makes_no_test_for_a_part_of_the_layers() -> None:
    assert predicted_by_ollama(model(), Launch(num_gpu=20), SMALL) == 0
    assert predicted_by_ollama(model(), Launch(num_gpu=99), SMALL) > 0
    assert predicted_by_ollama(model(), Launch(num_gpu=-1), SMALL) > 0


def test_ollama_makes_no_test_on_a_cpu() -> None:
    need, _ = Book().need(model(), Launch(), Settings(), on_cpu_bin=True)
    assert need.predicted_bytes == 0
    assert need.footprint_bytes > 4_000_000_000


# /api/ps


def test_an_entry_of_ps_is_read() -> None:
    entry = {
        "name": "llama3.2:1b",
        "model": "llama3.2:1b",
        "size": 1_515_000_000,
        "size_vram": 1_515_000_000,
        "digest": "baf6a787fdff",
        "context_length": 4096,
        "expires_at": "2319-01-01T00:00:00Z",
    }
    assert read_ps(entry) == Resident(
        name="llama3.2:1b",
        size_bytes=1_515_000_000,
        size_vram_bytes=1_515_000_000,
        context_length=4096,
        digest="baf6a787fdff",
    )


def test_an_odd_entry_of_ps_is_read_as_far_as_it_goes() -> None:
    odd = {"model": "m", "size": None, "size_vram": -1, "context_length": 0, "digest": 7}
    assert read_ps(odd) == Resident(
        name="m", size_bytes=0, size_vram_bytes=0, context_length=None, digest=""
    )
