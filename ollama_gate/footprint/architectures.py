"""What llama.cpp knows of architectures by their name, and no file says.

Names and figures alone, from the sources of b10488 (`src/models/*.cpp`, `llama-model.cpp`); what
follows from them is computed elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Sliding:
    """Which layers attend to a sliding window only, unless the file has a list of its own.

    Attributes:
        period: one layer in so many attends to everything.
        full_first: it is the first of them, not the last.
        window: in tokens, where the file does not say.
    """

    period: int
    full_first: bool = False
    window: int = 0


SLIDING: Final[Mapping[str, Sliding]] = {
    "afmoe": Sliding(4),
    "cohere2": Sliding(4),
    "cohere2moe": Sliding(4, full_first=True),
    "exaone-moe": Sliding(4, window=128),
    "exaone4": Sliding(4),
    "gemma-embedding": Sliding(6),
    "gemma2": Sliding(2, window=4096),
    "gemma3": Sliding(6),
    "gemma3n": Sliding(5),
    "gpt-oss": Sliding(2),
    "gptoss": Sliding(2),
    "laguna": Sliding(4, full_first=True),
    "llama4": Sliding(4, window=8192),
    "mellum": Sliding(4),
    "modern-bert": Sliding(3, full_first=True),
    "olmo2": Sliding(4),
    "olmo3": Sliding(4),
    "plamo3": Sliding(8),
    "smallthinker": Sliding(4, full_first=True, window=4096),
}
"""For an architecture that is not listed every layer counts as full, window or not: phi3, mistral
and qwen2 name one that llama.cpp does not use."""

OWN_CACHES: Final[Mapping[str, int]] = {"gemma3n": 20}
"""How many layers, from the first, have a cache of their own; the rest use one of theirs."""

INTERVALS: Final[Mapping[str, int]] = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
"""One layer in so many has attention and the rest are recurrent, unless the file says another
`full_attention_interval`."""

RECURRENT: Final = frozenset(["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"])
"""No layer of these has attention."""
RECURRENT_AND_FULL: Final = frozenset(["falcon-h1"])
"""Each layer of these has both."""
RECURRENT_PREFIX: Final = "nemotron_h"
"""A layer without attention is recurrent here only if it has no feed-forward part either."""

DENSE_AS_WELL: Final = frozenset(["arctic", "llama4"])
"""Mixtures of experts with dense layers among them, though no key says how many."""

UNCACHED: Final = frozenset(
    [
        "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert",
        "eurobert", "modern-bert", "gemma-embedding", "dream", "llada", "llada-moe", "rnd1",
    ]
)  # fmt: skip
"""They read a text as a whole and keep no cache."""
UNGATED: Final = frozenset(
    [
        "arcee", "bert", "bloom", "codeshell", "falcon", "gpt2", "gptj", "gptneox", "jina-bert-v3",
        "mpt", "nemotron", "nemotron_h", "nemotron_h_moe", "phi2", "starcoder", "starcoder2",
    ]
)  # fmt: skip
"""Their feed-forward part has one matrix up, not two."""

CHECKED: Final = frozenset(
    [
        "arcee", "bert", "cohere2", "deepseek2", "gemma", "gemma2", "gemma3", "gpt-oss", "gptoss",
        "granite", "lfm2", "llama", "mamba", "nomic-bert", "olmo2", "olmo3", "phi3", "qwen2",
        "qwen3", "smollm3", "stablelm", "starcoder2",
    ]
)  # fmt: skip
"""Of these, dry-runs or loads of llama.cpp were compared with what is computed here, in every
regime; of a few more, one shape was."""

_READ: Final = frozenset(
    [
        "apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bailingmoe2", "bitnet", "bloom",
        "chameleon", "chatglm", "codeshell", "command-r", "dbrx", "deepseek", "dots1",
        "ernie4_5", "ernie4_5-moe", "exaone", "falcon", "falcon-h1", "glm4", "glm4moe", "gpt2",
        "gptneox", "granite", "granitehybrid", "granitemoe", "grok", "hunyuan-dense",
        "hunyuan-moe", "internlm2", "jais", "jamba", "lfm2moe", "minicpm", "minicpm3", "mistral3",
        "mixtral", "mpt", "nemotron", "nemotron_h", "nemotron_h_moe", "olmo", "olmoe", "openelm",
        "orion", "phi2", "phi3", "phimoe", "plamo2", "qwen", "qwen25vl", "qwen2moe", "qwen2vl",
        "qwen3moe", "qwen3vl", "qwen3vlmoe", "seed_oss", "smollm3", "stablelm", "starcoder",
        "starcoder2", "xverse", "gemma4", "deepseek32", "kimi-linear",
    ]
)  # fmt: skip
KNOWN: Final = CHECKED | UNCACHED | RECURRENT | SLIDING.keys() | INTERVALS.keys() | _READ
"""Of these llama.cpp's sources were read: the cache formula holds, the buffers are less sure. The
cache of any other need not be what its dimensions say."""
