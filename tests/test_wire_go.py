"""Bodies, forms and names, against what Ollama v0.32.15 itself did with them.

The tables were taken from Ollama's own handlers (Go 1.26), with a model that has every capability
and a scheduler that only wrote down what it was asked for. A character of a body stands for one
byte. `run`: a runner was asked for; `unload`: one was let go; `cloud`: passed on; `refused`.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ollama_gate import names, wire
from ollama_gate.wire import Ask, Dialect, Endpoint, Hopeless

DATA = Path(__file__).parent / "data"
EMBEDDING = {Endpoint.EMBED, Endpoint.EMBEDDINGS, Endpoint.V1_EMBEDDINGS}
OPTIONS = ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"]
OPTIONS += ["draft_num_predict", "shift"]


def table(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return cases


def told(case: dict[str, Any]) -> str:
    return f"{case['path']} {case.get('headers', '')} {case['body']}"[:80]


@pytest.mark.parametrize("case", table("go_bodies.json") + table("go_forms.json"), ids=told)
def test_a_body_means_what_ollama_made_of_it(case: dict[str, Any]) -> None:
    endpoint, body = Endpoint(case["path"]), case["body"].encode("latin-1")
    found = wire.read(endpoint, case.get("headers", {}), body, query=case.get("query", ""))
    match case["outcome"]:
        case "refused":
            assert isinstance(found, Hopeless)
        case "cloud":
            # Ollama passes on what it has not looked at, and so may the gate.
            assert isinstance(found, Hopeless) or names.is_cloud(found.model)
        case outcome:
            assert isinstance(found, Ask), found
            assert meaning(endpoint, found) == answer(endpoint, case)
            assert outcome == ("unload" if unloads(endpoint, found) else "run")


def meaning(endpoint: Endpoint, ask: Ask) -> dict[str, Any]:
    given = {name: getattr(ask.launch_options, name) for name in OPTIONS}
    unload = unloads(endpoint, ask)
    return {
        "model": ask.model,
        "empty": ask.empty,
        "stream": None if endpoint in EMBEDDING else ask.stream,
        "needs": None if unload else sorted(ask.needs),
        "keep_alive_s": ask.keep_alive_s,
        "options": {name: value for name, value in given.items() if value is not None},
    }


def answer(endpoint: Endpoint, case: dict[str, Any]) -> dict[str, Any]:
    is_native = endpoint.dialect is Dialect.NATIVE
    return {
        "model": case["model"],
        "empty": case["empty"],
        "stream": None if endpoint in EMBEDDING else case["stream"],
        "needs": case.get("needs"),
        "keep_alive_s": in_seconds(case.get("keep_alive_ns")) if is_native else None,
        "options": case.get("options", {}),
    }


def in_seconds(length_ns: int | None) -> float | None:
    if length_ns is None:
        return None
    if length_ns == 2**63 - 1:
        return math.inf
    # What overflowed goes at once, yet is no request to unload, as 0 is.
    return 1e-9 if length_ns < 0 else length_ns / 10**9


def unloads(endpoint: Endpoint, ask: Ask) -> bool:
    forms = {Endpoint.GENERATE, Endpoint.CHAT}
    return endpoint in forms and ask.empty and ask.keep_alive_s == 0


@pytest.mark.parametrize("case", table("go_names.json"), ids=lambda case: repr(case["raw"])[:60])
def test_a_spelling_names_what_it_names_to_ollama(case: dict[str, Any]) -> None:
    name = names.parse(case["raw"])
    assert (name and name.key, name and name.short) == (case.get("key"), case.get("short"))
    assert names.is_cloud(case["raw"]) == case["cloud"]
