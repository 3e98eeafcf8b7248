"""YAML's nodes: made of text, named in errors, found in their file.

Nodes are read instead of values since YAML 1.1 turns `1:30` into 90 and `yes` into true, and an
error must quote what its reader typed. What a node means is not known here.
"""

import json

import yaml

TEXT_TAG = "tag:yaml.org,2002:str"
_NULL_TAG = "tag:yaml.org,2002:null"
_SHOWN_CHARACTERS = 80

Problem = tuple[str, str, yaml.Node]
"""Where (the end of a dotted path), what is wrong, and which node of the file it is about."""


def compose(text: str) -> yaml.Node | None:
    """The node that a document is; `None` for an empty one.

    Raises:
        yaml.YAMLError: it is not YAML.
        RecursionError: it is nested too deeply.
    """
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    return root


def is_nothing(node: yaml.Node) -> bool:
    """Whether it has no value, as a section of which every line is commented out."""
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL_TAG


def found(node: yaml.Node) -> str:
    """What an error says was found; a text is quoted, anything else shown as written."""
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode(value=items):
            return f"a list of {len(items)}" if items else "an empty list"
        case yaml.ScalarNode(tag=tag) if tag == _NULL_TAG:
            return "nothing"
        case _:
            text = str(node.value)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "…"
    return quoted(text) if node.tag == TEXT_TAG or not text.isprintable() else text


def quoted(text: str) -> str:
    """The text in quotes, and in ASCII if a terminal might not take it as it is."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def line(node: yaml.Node) -> int:
    """Where it starts in its file, from 1."""
    return int(node.start_mark.line) + 1
