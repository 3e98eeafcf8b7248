"""One value at a time: flag above environment above file above default, and every problem.

It refuses to stop at a problem; which values there are to be read is its user's to say.
"""

import contextlib
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from ollama_gate.config import kinds
from ollama_gate.config.addresses import Listen, names_gate, parse_upstream
from ollama_gate.config.file import FILE_VARIABLE, File
from ollama_gate.config.keys import FLAGS, KEYS, PREFIX, Key, step
from ollama_gate.config.nodes import TEXT_TAG, compose, line, quoted
from ollama_gate.config.structs import ModelConfig

T = TypeVar("T")
U = TypeVar("U")

_HOST_VARIABLE = "OLLAMA_HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A value as somebody wrote it; in a file, each part of it has a line of its own."""

    node: yaml.Node
    origin: Callable[[yaml.Node], str]


class Reading:
    """Values by key from flags, environment, file and defaults, and every problem on the way."""

    def __init__(self, *, file: File, environ: Mapping[str, str], flags: Mapping[str, str]) -> None:
        self.origins: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.problems: list[str] = []
        self._file = file
        # An empty variable is an unset one, as it is for Ollama.
        self._environ = {name: text.strip() for name, text in environ.items() if text.strip()}
        self._flags = {FLAGS[name].path: (name, text) for name, text in flags.items()}
        if file.unreadable is not None:
            self.problems.append(f"{file.path}: {file.unreadable}")
        for path, text, node in file.problems:
            self.add(path or "the file", text, self._in_file(node))

    def value(self, key: Key[T]) -> T:
        """The value of the first source that has one, or the default if that is wrong."""
        written = self._written(key)
        if written is None:
            self._note(key.path, key.kind.show(key.default), "default")
        return self._read(key.path, key.kind, written, key.default)

    def upstream_url(self, listen: Listen) -> str:
        """Where the Ollama is: never the gate itself, which would send a request in a circle."""
        url = self.value(KEYS.url)
        if self.origins.get(KEYS.url.path) == "default":
            url = self._ollama_host(listen) or url
        known = KEYS.url.path in self.origins and KEYS.listen.path in self.origins
        if known and names_gate(url, listen):
            text = f"expected an Ollama, found {url}, which is the gate's own listen address"
            self.add(KEYS.url.path, text, self.origins[KEYS.url.path])
        return url

    def model(self, name: str) -> ModelConfig:
        """One model of the file; only what is set there has an origin."""
        path, default = step("models", name), ModelConfig()

        def value(key: str, kind: kinds.Kind[T], otherwise: U) -> T | U:
            return self._read(f"{path}.{key}", kind, self._of_file(f"{path}.{key}"), otherwise)

        return ModelConfig(
            vram_bytes=value("vram", kinds.A_SIZE, default.vram_bytes),
            max_concurrent=value("max_concurrent", kinds.AN_INTEGER, default.max_concurrent),
            priority=value("priority", kinds.A_CLASS, default.priority),
            keep_alive_s=value("keep_alive", kinds.A_KEEP_ALIVE, default.keep_alive_s),
        )

    def add(self, path: str, text: str, origin: str) -> None:
        """Note a problem."""
        place = "" if origin == "default" else f" ({origin})"
        self.problems.append(f"{path}: {text}{place}")

    def check_variables(self) -> None:
        """A misspelt variable would otherwise be a setting that silently does nothing."""
        known = [*(key.variable for key in KEYS), FILE_VARIABLE]
        for name in sorted(self._environ):
            if name.startswith(PREFIX) and name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                self.problems.append(f"{name}: unknown variable; did you mean {nearest}?")

    def _read(
        self, path: str, kind: kinds.Kind[T], written: _Written | None, otherwise: U
    ) -> T | U:
        if written is None:
            return otherwise
        try:
            value = kind.read(written.node)
        except kinds.WrongError as error:
            for suffix, text, node in error.problems:
                self.add(path + suffix, text, written.origin(node))
            return otherwise
        self._note(path, kind.show(value), written.origin(written.node))
        return value

    def _note(self, path: str, shown: str, origin: str) -> None:
        self.values[path], self.origins[path] = shown, origin

    def _written(self, key: Key[Any]) -> _Written | None:
        if key.path in self._flags:
            name, text = self._flags[key.path]
            return self._of_text(key, text.strip(), f"flag --{name}")
        if key.variable in self._environ:
            text = self._environ[key.variable]
            return self._of_text(key, text, f"environment {key.variable}")
        return self._of_file(key.path)

    def _of_file(self, path: str) -> _Written | None:
        node = self._file.nodes.get(path)
        return None if node is None else _Written(node=node, origin=self._in_file)

    def _of_text(self, key: Key[Any], text: str, origin: str) -> _Written:
        node: yaml.Node | None = None
        if key.kind.structured:
            # What is no YAML stays text, and is refused as such.
            with contextlib.suppress(yaml.YAMLError, RecursionError):
                node = compose(text)
        return _Written(
            node=node or yaml.ScalarNode(tag=TEXT_TAG, value=text),
            origin=lambda _: origin,
        )

    def _in_file(self, node: yaml.Node) -> str:
        return f"{self._file.path}:{line(node)}"

    def _ollama_host(self, listen: Listen) -> str | None:
        """The address in `OLLAMA_HOST`; clients of the gate have the gate's own there."""
        text = self._environ.get(_HOST_VARIABLE, "").strip("\"' ")
        if not text:
            return None
        try:
            url = parse_upstream(text)
        except ValueError:
            expected = f"expected {kinds.URL_WORDS}, found {quoted(text)}"
            self.problems.append(f"{_HOST_VARIABLE}: {expected}")
            return None
        if names_gate(url, listen):
            return None
        self._note(KEYS.url.path, url, f"environment {_HOST_VARIABLE}")
        return url
