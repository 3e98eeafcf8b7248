"""Bodies that Ollama decodes first: `Content-Encoding: zstd` on the routes of `/v1`.

Spelled otherwise, or on a native route, Ollama takes the bytes as they are.
"""

from typing import Final

import zstandard

from ollama_gate.wire.scan import HopelessError

MAX_DECODED_BYTES: Final = 20 << 20
"""Ollama reads no more than this (`server/cloud_proxy.go`)."""
_MAX_WINDOW_BYTES: Final = 8 << 20
"""Nor does it take a frame that needs more memory, one of a known larger size among them."""


def decode_zstd(body: bytes) -> bytes:
    """What a body holds; raises `HopelessError` for one that Ollama would not decode."""
    try:
        _check_size(body)
        return _decoded(body)
    except zstandard.ZstdError as error:
        raise HopelessError(f"no zstd: {error}") from error


def _check_size(body: bytes) -> None:
    """A few bytes can stand for any number, so nothing is kept before they are counted."""
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(
        body, read_across_frames=True
    )
    left_bytes = MAX_DECODED_BYTES
    while chunk := reader.read(1 << 16):
        left_bytes -= len(chunk)
        if left_bytes < 0:
            raise HopelessError("request body too large once decoded")


def _decoded(body: bytes) -> bytes:
    parts: list[bytes] = []
    while body:
        frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        parts.append(frame.decompress(body))
        if not frame.eof:
            raise HopelessError("zstd data without an end")
        body = frame.unused_data
    return b"".join(parts)
