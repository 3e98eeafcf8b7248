"""Which names a body would give another meaning, and what it would make them from."""

import pytest

from ollama_gate import wire


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"model": "a"}', ("a",)),
        (b'{"name": "a"}', ("a",)),
        (b'{"MODEL": "a", "stream": false}', ("a",)),
        (b'{"source": "a", "destination": "b"}', ("b",)),
        (b'{"model": ""}', ()),
        (b'{"model": 7}', ()),
        (b"[]", ()),
        (b"", ()),
        (b"{", ()),
        (b"[" * 100_000, ()),
    ],
)
def test_the_names_are_those_that_are_made_replaced_or_deleted(
    body: bytes, names: tuple[str, ...]
) -> None:
    assert wire.changed_names(body) == names


@pytest.mark.parametrize(
    ("body", "source"),
    [
        (b'{"source": "a", "destination": "b"}', "a"),
        (b'{"model": "b", "from": "a"}', "a"),
        (b'{"model": "b", "From": "a", "files": {}}', "a"),
        (b'{"model": "b", "from": ""}', None),
        (b'{"model": "b", "from": 7}', None),
        (b'{"model": "b"}', None),
        (b"7", None),
    ],
)
def test_the_source_is_what_is_copied_or_built_upon(body: bytes, source: str | None) -> None:
    assert wire.source_name(body) == source
