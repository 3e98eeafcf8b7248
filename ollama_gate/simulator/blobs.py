"""Files on their way to a model: HEAD and POST /api/blobs/:digest (v0.32.15 server/routes.go)."""

import hashlib

from ollama_gate.simulator.layers import HEAD_BYTES, Upload, is_digest
from ollama_gate.simulator.replies import Empty, RefusedError
from ollama_gate.simulator.world import Call


async def head(call: Call) -> Empty:
    """Whether it is there."""
    if not _is_there(call):
        raise RefusedError(404, f'blob "{call.parameter}" not found')
    return Empty()


async def upload(call: Call) -> Empty:
    """Take it, unless it is there: then its body is not even asked for."""
    if _is_there(call):
        return Empty()
    hashed, size, begins = hashlib.sha256(), 0, bytearray()
    async for block in call.blocks():
        hashed.update(block)
        size += len(block)
        begins += block[: HEAD_BYTES - len(begins)]
    digest = f"sha256:{hashed.hexdigest()}"
    # It is kept even where it is not what was announced.
    call.world.blobs.uploads.setdefault(digest, Upload(size, bytes(begins)))
    if digest != call.parameter:
        raise RefusedError(400, f'digest mismatch, expected "{call.parameter}", got "{digest}"')
    return Empty(201)


def _is_there(call: Call) -> bool:
    if not is_digest(call.parameter):
        raise RefusedError(400, "invalid digest format")
    return call.world.blobs.has(call.parameter, call.world.catalog)
