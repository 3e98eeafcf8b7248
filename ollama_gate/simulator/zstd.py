"""Bodies that came compressed: Ollama takes zstd under `/v1`, and nothing else anywhere.

Ollama v0.32.15 server/cloud_proxy.go; the texts are those of the decoder it uses.
"""

import zstandard

MOST_BYTES = 20 * 2**20  # what a body may become
_MOST_WINDOW_BYTES = 8 * 2**20
_STEP_BYTES = 512  # a few bytes may become many: never decode all at once
_MAGIC = b"\x28\xb5\x2f\xfd"


class NotZstdError(ValueError):
    """The body does not decompress; the text is what Ollama answers with status 400."""


def decompress(body: bytes) -> bytes:
    """The body's frames one after another.

    Raises:
        NotZstdError: if it is not zstd, breaks off, asks for too much memory or is too long.
    """
    whole = bytearray()
    while body:
        body = _frame(body, whole)
    return bytes(whole)


def _frame(body: bytes, whole: bytearray) -> bytes:
    """Add one frame to what there is; what follows it is left over."""
    _check_head(body)
    decoder = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
    for at in range(0, len(body), _STEP_BYTES):
        try:
            whole += decoder.decompress(body[at : at + _STEP_BYTES])
        except zstandard.ZstdError as error:
            is_sum = "checksum" in str(error)
            text = "CRC check failed" if is_sum else "invalid input: compressed size too big"
            raise NotZstdError(text) from None
        if len(whole) > MOST_BYTES:
            raise NotZstdError("http: request body too large")
        if decoder.eof:
            return decoder.unused_data + body[at + _STEP_BYTES :]
    raise NotZstdError("unexpected EOF")


def _check_head(body: bytes) -> None:
    if _is_skippable(body):
        return
    if len(body) >= len(_MAGIC) and not body.startswith(_MAGIC):
        raise NotZstdError("invalid input: magic number mismatch")
    if body[4:] and body[4] & 1 << 3:
        raise NotZstdError("reserved bit set on frame header")
    try:
        head = zstandard.get_frame_parameters(body)
    except zstandard.ZstdError:
        raise NotZstdError("unexpected EOF") from None
    is_single = bool(body[len(_MAGIC)] & 1 << 5)
    if head.window_size > _MOST_WINDOW_BYTES:
        too_long = "decompressed size exceeds configured limit"
        raise NotZstdError(too_long if is_single else "window size exceeded")


def _is_skippable(body: bytes) -> bool:
    return body[1:4] == b"\x2a\x4d\x18" and body[0] & 0xF0 == 0x50  # noqa: PLR2004 (RFC 8878, 3.1.2)
