"""The file: found, read and taken apart into nodes by dotted path.

It opens one file and changes none; of the values it knows no more than where they stand.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ollama_gate.config.keys import MODEL_KEYS, TOP, below, entries, entry, step
from ollama_gate.config.nodes import Problem, compose, found, is_nothing

SYSTEM_FILE = Path("/etc/ollama-gate/gate.yaml")
FILE_VARIABLE = "OLLAMA_GATE_CONFIG"


@dataclass(slots=True, kw_only=True)
class File:
    """What a file says: nodes by dotted path, models by name, and what is wrong with its shape.

    Attributes:
        upstreams: how many there are, at least one.
    """

    path: Path | None = None
    nodes: dict[str, yaml.Node] = field(default_factory=dict)
    upstreams: int = 1
    models: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: str | None = None

    def read_top(self, root: yaml.Node) -> None:
        """Take the whole document apart."""
        for name, node in entries(root, "", TOP, self.problems):
            if name == "upstreams":
                self._read_upstreams(node)
            elif name == "models":
                self._read_models(node)
            else:
                self._read_value(node, name)

    def _read_value(self, node: yaml.Node, path: str) -> None:
        known = below(path)
        if known:
            self._read_section(node, path, known)
        else:
            self.nodes[path] = node

    def _read_section(self, node: yaml.Node, path: str, known: Collection[str]) -> None:
        for name, value in entries(node, path, known, self.problems):
            self._read_value(value, step(path, name))

    def _read_upstreams(self, node: yaml.Node) -> None:
        if is_nothing(node):
            return
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            text = f"expected a list of upstreams, found {found(node)}"
            self.problems.append(("upstreams", text, node))
            return
        self.upstreams = len(node.value)
        for place, each in enumerate(node.value):
            # Their variables are the first one's alone, and so are the keys that are listed.
            self._read_section(each, entry(place), below(entry(0)))

    def _read_models(self, node: yaml.Node) -> None:
        for name, model in entries(node, "models", None, self.problems):
            path = step("models", name)
            set_here = dict(entries(model, path, MODEL_KEYS, self.problems))
            self.nodes.update({f"{path}.{key}": value for key, value in set_here.items()})
            self.models[name] = tuple(key for key in MODEL_KEYS if key in set_here)


def _read_file(path: Path) -> File:
    """One file as it stands; `FileNotFoundError` and `NotADirectoryError` if there is none."""
    file = File(path=path)
    try:
        root = compose(path.read_bytes().decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        file.unreadable = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        file.unreadable = f"not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}"
    except (yaml.YAMLError, RecursionError) as error:
        file.unreadable = f"not YAML: {_syntax(error)}"
    else:
        if root is not None:
            file.read_top(root)
    return file


def _syntax(error: Exception) -> str:
    match error:
        case yaml.MarkedYAMLError(problem_mark=yaml.Mark() as mark):
            context = f"{error.context}, " if error.context else ""
            return f"line {mark.line + 1}, column {mark.column + 1}: {context}{error.problem}"
        case yaml.reader.ReaderError():
            return f"character {error.position + 1}: {error.reason}"
        case RecursionError():
            return "nested too deeply"
        case _:
            return str(error)


def find_file(path: Path | None, environ: Mapping[str, str]) -> File:
    """The file that is named, else the first of the usual places that has one, else an empty one.

    One that is named and not there, or that cannot be read, says so in `unreadable`.
    """
    named = [path] if path is not None else []
    if not named and environ.get(FILE_VARIABLE):
        named = [Path(environ[FILE_VARIABLE])]
    for candidate in named or _usual_places(environ):
        try:
            return _read_file(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
    if named:
        return File(path=named[0], unreadable="there is no such file")
    return File()


def _usual_places(environ: Mapping[str, str]) -> list[Path]:
    home = [Path(environ["HOME"], ".config/ollama-gate/gate.yaml")] if environ.get("HOME") else []
    return [Path("gate.yaml"), *home, SYSTEM_FILE]
