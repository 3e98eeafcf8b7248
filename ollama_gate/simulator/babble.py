"""What the simulated models say: deterministic nonsense of the right shape.

The same model, prompt and seed give the same words, tokens and vectors in every run.
"""

import hashlib
import json
import math
import random
from typing import Any

from ollama_gate.simulator.gojson import Float32

# fmt: off
_WORDS = (
    "the", "model", "answers", "slowly", "because", "memory", "is", "short", "and", "every",
    "card", "has", "its", "own", "limit", "so", "we", "wait", "until", "room", "is", "made",
    "then", "words", "come", "one", "after", "another", "like", "rain", "on", "a", "quiet",
    "street", "while", "others", "stand", "in", "line", "nobody", "is", "forgotten",
)
# fmt: on
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_SHORTEST_ANSWER = 24
_LONGEST_ANSWER = 160
_CHARACTERS_PER_TOKEN = 4
_TEMPLATE_TOKENS = 12  # what a chat template adds to a prompt


def count_tokens(text: str) -> int:
    """About how many tokens a text is."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def prompt_tokens(text: str, *, raw: bool) -> int:
    """The same with what the template adds."""
    return max(1, count_tokens(text)) + (0 if raw else _TEMPLATE_TOKENS)


def token(number: int) -> str:
    """The so-many-th of a vocabulary."""
    return f"{_WORDS[number % len(_WORDS)]}{number}"


def token_ids(text: str, vocabulary: int) -> list[int]:
    """A text as token ids, as `context` carries them."""
    pieces = range(0, len(text), _CHARACTERS_PER_TOKEN)
    return [
        int.from_bytes(_digest(text[at : at + _CHARACTERS_PER_TOKEN])[:4]) % vocabulary
        for at in pieces
    ]


def answer_length(key: str, configured: int) -> int:
    """How many tokens an answer has that nothing cuts short."""
    if configured:
        return configured
    return random.Random(_digest(f"length {key}")).randint(_SHORTEST_ANSWER, _LONGEST_ANSWER)


def answer(key: str, tokens: int) -> list[str]:
    """The tokens of a plain answer."""
    dice = random.Random(_digest(f"answer {key}"))
    words = [f" {dice.choice(_WORDS)}" for _ in range(tokens)]
    return [words[0].strip().capitalize(), *words[1:]] if words else []


def json_answer(key: str, form: Any) -> list[str]:
    """The tokens of an answer in JSON, following the outline of a schema where there is one."""
    value = instance(form, key) if isinstance(form, dict) else {"answer": "".join(answer(key, 5))}
    return in_tokens(json.dumps(value))


def in_tokens(text: str) -> list[str]:
    """A text cut into pieces as short as tokens."""
    return [text[at : at + 3] for at in range(0, len(text), 3)]


def vector(model: str, text: str, length: int) -> list[float]:
    """An embedding before it is normalised."""
    dice = random.Random(_digest(f"vector {model} {text}"))
    return [dice.gauss(0, 1) for _ in range(length)]


def normalised(values: list[float]) -> list[Float32]:
    """Scaled to length one, in 32 bits."""
    norm = math.sqrt(sum(value * value for value in values)) or 1e-12
    return [Float32(value / norm) for value in values]


def instance(schema: dict[str, Any], key: str) -> Any:
    """A value that a JSON schema admits, as far as the schema is one of the usual ones."""
    return _instance(schema, key, schema.get("$defs") or schema.get("definitions") or {})


def identity(prefix: str, key: str) -> str:
    """An id like `call_k3v9x0qa`, the same for the same key."""
    dice = random.Random(_digest(f"identity {key}"))
    return prefix + "".join(dice.choice(_ID_LETTERS) for _ in range(8))


def _instance(schema: Any, key: str, defs: dict[str, Any]) -> Any:
    """The least value that a schema's outline admits."""
    if not isinstance(schema, dict):
        return "".join(answer(key, 3))
    if "$ref" in schema:
        return _instance(defs.get(str(schema["$ref"]).rpartition("/")[2]), key, defs)
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    for either in ("anyOf", "oneOf", "allOf"):
        if schema.get(either):
            return _instance(schema[either][0], key, defs)
    return _of_type(schema, key, defs)


def _of_type(schema: dict[str, Any], key: str, defs: dict[str, Any]) -> Any:
    kinds = schema.get("type")
    match kinds[0] if isinstance(kinds, list) and kinds else kinds:
        case "object":
            properties = schema.get("properties") or {}
            return {name: _instance(inner, key + name, defs) for name, inner in properties.items()}
        case "array":
            return [_instance(schema.get("items") or {"type": "string"}, key, defs)]
        case "integer" | "number":
            return _within(42, schema)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "".join(answer(key, 3))


def _within(number: float, schema: dict[str, Any]) -> float:
    least, most = schema.get("minimum"), schema.get("maximum")
    number = number if least is None else max(number, least)
    return number if most is None else min(number, most)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).digest()
