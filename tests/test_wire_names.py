"""Which names a body would give another meaning."""

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
