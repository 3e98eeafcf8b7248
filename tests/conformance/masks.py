"""What may differ between two answers to the same request, each kind by its name.

A mask replaces what may differ by a word that says what it was, so that everything around it is
still compared byte for byte. Nothing is masked that no rule here names.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"
_IDS = r"chatcmpl-\w+|cmpl-\w+|resp_\w+|msg_\w+|req_\w+|call_\w+|toolu_\w+|rs_\w+|fc_\w+|item_\w+"


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern whose first group stays, and the word that takes the rest's place."""

    pattern: re.Pattern[str]
    word: str
    numbered: bool = False
    """Whether equal matches stay equal and others apart: `<id 1>`, `<id 2>`."""


def _rule(pattern: str, word: str, *, numbered: bool = False) -> Rule:
    return Rule(re.compile(pattern), word, numbered)


RULES: Mapping[str, tuple[Rule, ...]] = {
    "created": (
        _rule(rf'("created_at": ?"){_TIME}', "<time>"),
        _rule(r'("(?:created|created_at|completed_at)": ?)\d{9,}', "<time>"),
    ),
    "durations": (_rule(r'("(?:total|load|prompt_eval|eval)_duration": ?)\d+', "<ns>"),),
    "ids": (_rule(rf'(")(?:{_IDS})(?=")', "<id>", numbered=True),),
    "said": (_rule(r'("(?:text|delta|thinking|partial_json)": ?")(?:[^"\\]|\\.)+', "<said>"),),
    "parameters": (
        _rule(r'()(?:PARAMETER (?:[^"\\]|\\[^n])*\\n)+', "<parameters>"),
        _rule(r'("parameters":")(?:[^"\\]|\\.)*', "<parameters>"),
    ),
    "digest": (_rule(r"(sha256[:-])[0-9a-f]{64}", "<digest>"),),
    "modified": (_rule(rf'("modified_at": ?"){_TIME}', "<time>"),),
    "expires": (_rule(rf'("expires_at": ?"){_TIME}', "<compared apart>"),),
    "key": (_rule(r"(connect\?name=)[^\"]+", "<key>"),),
    "cached-tokens": (
        _rule(r'("(?:prompt_eval_count|prompt_tokens|input_tokens|total_tokens)": ?)\d+', "<n>"),
        _rule(r'("cached_tokens": ?)\d+', "<n>"),
    ),
    "port": (_rule(r"((?:127\.0\.0\.1|\[::1\]|localhost):)\d+", "<port>"),),
}
"""By name; `own-name` is the runner's to do, since it knows the names."""

OWN_NAME = "own-name"
ORDER = "order"
"""Ollama lists models that were changed in the same instant in any order: the entries are sorted,
each as it was written."""


def apply(names: tuple[str, ...], body: bytes, own: Mapping[str, str]) -> tuple[bytes, set[str]]:
    """Mask a body.

    Args:
        names: rules in their order.
        body: as it came; what is not UTF-8 stays as it is.
        own: texts that only this side has, and what they are called.

    Returns:
        The body, and the names of the rules that found something.
    """
    text, applied = body.decode("utf-8", "surrogateescape"), set()
    for name in names:
        before = text
        if name == ORDER:
            text = _sorted(text)
        elif name == OWN_NAME:
            for mine, word in own.items():
                text = text.replace(mine, word)
        else:
            for rule in RULES[name]:
                text = _apply(rule, text)
        if text != before:
            applied.add(name)
    return text.encode("utf-8", "surrogateescape"), applied


def expiries(body: bytes, now: datetime) -> list[float]:
    """Seconds from `now` until each `expires_at` of a body, in its order."""
    found = re.findall(rf'"expires_at": ?"({_TIME})', body.decode("utf-8", "replace"))
    return [(_instant(text) - now).total_seconds() for text in found]


def _instant(text: str) -> datetime:
    # Go writes nanoseconds, which Python does not read.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


def _sorted(text: str) -> str:
    """A listing with the texts of its entries in order."""
    found = re.match(r'\{(?:"object":"list",)?"(?:models|data)":\[(?=\{)', text)
    if found is None:
        return text
    at, entries, decoder = found.end(), [], json.JSONDecoder()
    while text[at : at + 1] == "{":
        _, end = decoder.raw_decode(text, at)
        entries.append(text[at:end])
        at = end + (text[end : end + 1] == ",")
    return text[: found.end()] + ",".join(sorted(entries)) + text[at:]


def _apply(rule: Rule, text: str) -> str:
    seen: dict[str, int] = {}

    def word(found: re.Match[str]) -> str:
        if not rule.numbered:
            return found[1] + rule.word
        number = seen.setdefault(found[0], len(seen) + 1)
        return f"{found[1]}{rule.word.removesuffix('>')} {number}>"

    return rule.pattern.sub(word, text)
