"""What the tensors of a model file take, and which of them go to a card.

From the list in a verbose `/api/show` alone; names and types are llama.cpp's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ollama_gate.footprint.lenient import list_of, mapping_of, number_of, text_of

_TENSOR_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    "F64": (8, 1), "F32": (4, 1), "F16": (2, 1), "BF16": (2, 1),
    "I64": (8, 1), "I32": (4, 1), "I16": (2, 1), "I8": (1, 1),
    "Q4_0": (18, 32), "Q4_1": (20, 32), "Q5_0": (22, 32), "Q5_1": (24, 32),
    "Q8_0": (34, 32), "Q8_1": (36, 32), "MXFP4": (17, 32), "IQ4_NL": (18, 32),
    "Q2_K": (84, 256), "Q3_K": (110, 256), "Q4_K": (144, 256), "Q5_K": (176, 256),
    "Q6_K": (210, 256), "Q8_K": (292, 256),
    "IQ1_S": (50, 256), "IQ1_M": (56, 256), "IQ2_XXS": (66, 256), "IQ2_XS": (74, 256),
    "IQ2_S": (82, 256), "IQ3_XXS": (98, 256), "IQ3_S": (110, 256), "IQ4_XS": (136, 256),
    "TQ1_0": (54, 256), "TQ2_0": (66, 256),
}  # fmt: skip
"""Bytes and elements of one block of each ggml tensor type."""

_HOST_TENSORS: Final = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
"""llama.cpp keeps its input layer in host memory."""
_REPACKED: Final = frozenset(["Q4_0", "Q4_K", "IQ4_NL"])
"""Matrices that llama.cpp lays out anew, in a second copy, to compute with them on an x86 CPU."""
_MAX_DIMENSIONS: Final = 4
"""ggml knows no more."""
_EMBEDDING: Final = "token_embd.weight"
_PROJECTOR_TENSORS: Final = ("v.", "mm.", "a.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Sums over the list of tensors.

    Attributes:
        repacked_bytes: what a CPU keeps a second copy of; the embedding only as an output layer.
        vocabulary: tokens that there is an embedding for; 0 without one.
    """

    model_bytes: int
    projector_bytes: int
    host_bytes: int
    embedding_bytes: int
    tied: bool
    vocabulary: int
    repacked_bytes: int

    def on_card(self, *, cached: bool) -> int:
        """What of the weights goes to a card; a tied output layer is a second copy there."""
        twice = self.embedding_bytes if self.tied and cached else 0
        return self.model_bytes - self.host_bytes + twice

    @classmethod
    def read(cls, tensors: Any) -> "Tensors | None":
        """Sum them up; `None` where there is no list, or a tensor of a type not known here."""
        sizes: dict[str, int] = {}
        vocabulary = 0
        repacked: dict[str, int] = {}
        for tensor in list_of(tensors):
            entry = mapping_of(tensor)
            size = _tensor_bytes(entry)
            if size is None:
                return None
            name = text_of(entry.get("name"))
            sizes[name] = size
            if text_of(entry.get("type")).upper() in _REPACKED and _matrix(entry):
                repacked[name] = size
            if name == _EMBEDDING:
                vocabulary = number_of(list_of(entry.get("shape"))[-1]) or 0
        if not sizes:
            return None
        tied = "output.weight" not in sizes
        if not tied:
            repacked.pop(_EMBEDDING, None)
        projector = sum(sizes[name] for name in sizes if name.startswith(_PROJECTOR_TENSORS))
        return cls(
            model_bytes=sum(sizes.values()) - projector,
            projector_bytes=projector,
            host_bytes=sum(sizes[name] for name in sizes if name.startswith(_HOST_TENSORS)),
            embedding_bytes=sizes.get(_EMBEDDING, 0),
            tied=tied,
            vocabulary=vocabulary,
            repacked_bytes=sum(
                repacked[name] for name in repacked if not name.startswith(_PROJECTOR_TENSORS)
            ),
        )


def _matrix(tensor: Mapping[str, Any]) -> bool:
    return len(list_of(tensor.get("shape"))) > 1


def _tensor_bytes(tensor: Mapping[str, Any]) -> int | None:
    block = _TENSOR_BLOCKS.get(text_of(tensor.get("type")).upper())
    lengths = [number_of(length) for length in list_of(tensor.get("shape"))]
    known = [length for length in lengths if length is not None]
    if block is None or not known or len(known) < len(lengths) or len(known) > _MAX_DIMENSIONS:
        return None
    block_bytes, block_elements = block
    return -(-math.prod(known) // block_elements) * block_bytes
