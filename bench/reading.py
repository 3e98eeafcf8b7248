"""How long a request body takes to read, and how much memory, next to `json.loads`.

Usage: python bench/reading.py

One table in Markdown: processor time of `wire.read` and of `json.loads` in turn, in one run, and
what each holds at most beyond the body.
"""

import base64
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from ollama_gate import wire
from ollama_gate.wire import Endpoint

_ROUNDS: Final = 5
_MIN_SECONDS: Final = 0.02
"""Short work is repeated until a round takes this long."""
_IMAGE: Final = base64.b64encode(bytes(range(256)) * 49_152).decode()


class Case(NamedTuple):
    """One body."""

    name: str
    endpoint: Endpoint
    body: bytes


def _cases() -> Iterator[Case]:
    talk = [
        {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
        {"role": "user", "content": "Why is the sky blue? Explain it in two sentences, please."},
    ]
    options = {"temperature": 0.7, "num_ctx": 8192, "top_p": 0.9}
    yield _case("a chat", Endpoint.CHAT, messages=talk, options=options, keep_alive="10m")
    yield _case("a chat, /v1", Endpoint.CHAT_COMPLETIONS, messages=talk, temperature=0.7)
    yield _case("a conversation of 50 turns", Endpoint.CHAT, messages=talk * 50)
    yield _case("100,000 messages", Endpoint.CHAT, messages=talk * 50_000)
    images = [{"role": "user", "content": "What is this?", "images": [_IMAGE] * 3}]
    yield _case("three images", Endpoint.CHAT, messages=images)
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_IMAGE}"}}
    yield _case(
        "three images, /v1",
        Endpoint.CHAT_COMPLETIONS,
        messages=[{"role": "user", "content": [part] * 3}],
    )
    yield _case("a prompt of 50 MB", Endpoint.GENERATE, prompt="word " * 10_000_000)
    yield _case("a prompt of 50 MB, escaped", Endpoint.GENERATE, prompt="word\n" * 8_000_000)
    yield _case("200,000 texts to embed", Endpoint.EMBED, input=["a short text"] * 200_000)
    yield _case("a context of a million", Endpoint.GENERATE, prompt="x", context=[123] * 1_000_000)


def _case(name: str, endpoint: Endpoint, **fields: Any) -> Case:
    return Case(name, endpoint, json.dumps({"model": "llama3.2:3b", **fields}).encode())


def _seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    count, taken_s = 1, 0.0
    while True:
        began = time.process_time()
        for _ in range(count):
            work()
        taken_s = time.process_time() - began
        if taken_s >= _MIN_SECONDS:
            return taken_s / count
        count *= 4


def _peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _row(case: Case) -> str:
    works: list[Callable[[], object]] = [
        lambda: wire.read(case.endpoint, {}, case.body),
        lambda: json.loads(case.body),
    ]
    rounds = [[_seconds(work) for work in works] for _ in range(_ROUNDS)]
    read_s, loads_s = (min(column) for column in zip(*rounds, strict=True))
    read_bytes, loads_bytes = (_peak_bytes(work) for work in works)
    return (
        f"| {case.name} | {len(case.body):,} | {read_s * 1e6:,.0f} | {loads_s * 1e6:,.0f} "
        f"| {read_s / loads_s:.2f} | {read_bytes:,} | {loads_bytes:,} |"
    )


def main() -> None:
    """Print the table."""
    print("| body | bytes | read us | loads us | ratio | read peak B | loads peak B |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in _cases():
        print(_row(case))


if __name__ == "__main__":
    main()
