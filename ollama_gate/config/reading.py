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
from ollama_gate.config.file import FILE_VARIABLE, File
from ollama_gate.config.key import PREFIX, Key
from ollama_gate.config.keys import EVERY, FLAGS, step
from ollama_gate.config.nodes import TEXT_TAG, compose, line
from ollama_gate.config.parameters import PARAMETERS, PROFILE, contradictions, of_profile
from ollama_gate.config.scheduling import SchedulerConfig
from ollama_gate.config.structs import ModelConfig

T = TypeVar("T")
U = TypeVar("U")


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
        # An empty variable is an unset one, as it is for Ollama.
        self.environ = {name: text.strip() for name, text in environ.items() if text.strip()}
        self._file = file
        self._flags = {FLAGS[name].path: (name, text) for name, text in flags.items()}
        self._of_profile: dict[str, Any] = {}
        self._profile = ""
        if file.unreadable is not None:
            self.problems.append(f"{file.path}: {file.unreadable}")
        for path, text, node in file.problems:
            self.add(path or "the file", text, self._in_file(node))

    def value(self, key: Key[T]) -> T:
        """The value of the first source that has one, or the default if that is wrong."""
        written, default, origin = self._written(key), key.default, "default"
        if key.path in self._of_profile:
            default, origin = self._of_profile[key.path], self._profile
        if written is None:
            self.note(key.path, key.kind.show(default), origin)
        return self._read(key.path, key.kind, written, default)

    def scheduler(self) -> SchedulerConfig:
        """The brain's parameters: what nobody set is the profile's."""
        profile = self.value(PROFILE)
        self._of_profile, self._profile = of_profile(profile), f"profile {profile}"
        values = {name: self.value(key) for name, key in PARAMETERS.items()}
        scheduler = SchedulerConfig(profile=profile, **values)
        for path, text in contradictions(scheduler, self.origins):
            self.add(path, text, self.origins.get(path.partition("[")[0], "default"))
        return scheduler

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
            pin=value("pin", kinds.A_FLAG, default.pin),
            preload=value("preload", kinds.A_FLAG, default.preload),
        )

    def add(self, path: str, text: str, origin: str) -> None:
        """Note a problem."""
        place = "" if origin == "default" else f" ({origin})"
        self.problems.append(f"{path}: {text}{place}")

    def note(self, path: str, shown: str, origin: str) -> None:
        """Keep for showing what a value is and where it is from."""
        self.values[path], self.origins[path] = shown, origin

    def check_variables(self) -> None:
        """A misspelt variable would otherwise be a setting that silently does nothing."""
        known = [*(key.variable for key in EVERY), FILE_VARIABLE]
        for name in sorted(self.environ):
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
        self.note(path, kind.show(value), written.origin(written.node))
        return value

    def _written(self, key: Key[Any]) -> _Written | None:
        if key.path in self._flags:
            name, text = self._flags[key.path]
            return self._of_text(key, text.strip(), f"flag --{name}")
        if key.variable in self.environ:
            text = self.environ[key.variable]
            return self._of_text(key, text, f"environment {key.variable}")
        return self._of_file(key.path)

    def _of_file(self, path: str) -> _Written | None:
        node = self._file.nodes.get(path)
        return None if node is None else _Written(node=node, origin=self._in_file)

    def forget(self, section: str) -> None:
        """Show nothing of what stands below a path."""
        for path in [path for path in self.values if path.startswith(f"{section}.")]:
            del self.values[path], self.origins[path]

    def take_flag(self, key: Key[Any]) -> str | None:
        """What a key's flag says, for whom it is more than the key's value."""
        _, text = self._flags.pop(key.path, ("", None))
        return None if text is None else text.strip()

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
