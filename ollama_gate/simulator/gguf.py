"""The beginning of a GGUF file: as much of it as tells what a model is.

Read from the first bytes of an upload, which is all that this world keeps of one.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

from ollama_gate.simulator.catalog import COMPLETION, EMBEDDING, Model, Shape

MAGIC: Final = b"GGUF"

_SCALARS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING: Final = 8
_ARRAY: Final = 9
_QUANTIZATIONS: Final = {0: "F32", 1: "F16", 2: "Q4_0", 7: "Q8_0", 15: "Q4_K_M", 38: "MXFP4"}


class UnreadableError(ValueError):
    """It begins as a GGUF and does not go on as one."""


def key_values(head: bytes) -> tuple[dict[str, Any], int]:
    """What a file says of itself, as far as `head` reaches, and how many tensors it has.

    Raises:
        UnreadableError: if not even the counts are there.
    """
    reader = _Reader(head, len(MAGIC) + 4)
    try:
        tensors, count = reader.scalar("<Q"), reader.scalar("<Q")
    except struct.error:
        raise UnreadableError("unexpected EOF") from None
    found: dict[str, Any] = {}
    try:
        for _ in range(count):
            key = reader.string()
            found[key] = reader.value(reader.scalar("<I"))
    except struct.error:
        pass  # a long vocabulary; what matters comes before it
    return found, tensors


def model_of(name: str, blob: str, size: int, head: bytes) -> Model:
    """The model an uploaded file makes, its digest in hex; what it does not say is small.

    Raises:
        UnreadableError: as `key_values`.
    """
    found, _ = key_values(head)
    arch = str(found.get("general.architecture", "unknown"))
    quantization = _QUANTIZATIONS.get(found.get("general.file_type", 1), "F16")
    is_embedder = f"{arch}.pooling_type" in found
    return Model(
        name=name,
        disk_bytes=size,
        shape=_shape(arch, found, is_embedder=is_embedder),
        parameters_b=found.get("general.parameter_count", size / 2) / 1e9,
        quantization=quantization,
        capabilities=(EMBEDDING,) if is_embedder else (COMPLETION,),
        blob=blob,
    )


def _shape(arch: str, found: Mapping[str, Any], *, is_embedder: bool) -> Shape:
    def number(key: str, default: int) -> int:
        value = found.get(f"{arch}.{key}", default)
        return value if isinstance(value, int) and value > 0 else default

    heads = number("attention.head_count", 1)
    embedding = number("embedding_length", 64)
    return Shape(
        family=arch,
        blocks=number("block_count", 1),
        embedding=embedding,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_length=number("attention.key_length", max(1, embedding // heads)),
        feed_forward=number("feed_forward_length", 4 * embedding),
        train_context=number("context_length", 2048),
        vocabulary=number("vocab_size", 32000),
        is_embedder=is_embedder,
    )


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def string(self) -> str:
        length = self.scalar("<Q")
        text = self._data[self._at : self._at + length]
        if len(text) < length:
            raise struct.error("cut short")
        self._at += length
        return text.decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.scalar("<I"), self.scalar("<Q")
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise struct.error("no such type")
        return self.scalar(_SCALARS[kind])
