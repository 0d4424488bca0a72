"""What the values of the keys may be that came with data sets and with the kinds of steps beside prompts.

As in `readers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from flowllm.language.nodes import Mapping, Node, Scalar, Sequence, kind_of
from flowllm.language.problems import Wrong
from flowllm.language.readers import arguments, is_template, mapping, number, scalar, share, text, written

EMBED_OPTIONS = {
    "model": "it is a key of its own: `model: …`",
    "dimensions": "it is a key of its own: `dimensions: …`",
    "input": "it is what stands under `embed`",
}
"""Keys that an embed step's `params` does not take, and what to do instead."""


def delimiter(node: Node) -> str:
    """One character."""
    found = scalar(node, "a character")
    if len(found.text) != 1 or found.text in '\r\n"':
        raise Wrong(found.where, f"`{found.text}` is not one character", 'write one, such as ";"')
    return found.text


def count_or_share(node: Node) -> int | float:
    """A whole number as int, or a share such as 5% as a float from 0 to 1."""
    found = scalar(node, "a number or a share")
    if found.text.strip().endswith("%"):
        return float(share(found))
    if found.is_text or found.value is None:
        raise Wrong(found.where, f"expected a whole number or a share such as 5%, found `{found.text}`")
    counted: int = number(minimum=0, whole=True)(found)
    return counted


def images(node: Node) -> Scalar | Sequence:
    """A text, or a list of texts."""
    if not isinstance(node, Sequence):
        return text(node)
    if not node.items:
        raise Wrong(node.where, "the list of images is empty", "leave `images` out")
    for item in node.items:
        text(item)
    return node


def command(node: Node) -> Scalar:
    """A command line, in which nothing is filled in."""
    found = written(node)
    if "{{" in found.text:
        raise Wrong(
            found.where,
            "a command is never a template: what a model wrote must not become a command",
            'values go in by `stdin:` and `env:`; use those as "$NAME"',
        )
    return found


def texts(node: Node) -> Scalar | Sequence:
    """A text, or a list of texts; each may be a template."""
    if not isinstance(node, Sequence):
        return written(node)
    for item in node.items:
        written(item)
    return node


def texts_by_name(pattern: re.Pattern[str], what: str) -> Callable[[Node], Mapping]:
    """A reader of texts under names; a text may be empty, and a template."""

    def read(node: Node) -> Mapping:
        found = mapping(node)
        for entry in found.entries:
            if not pattern.fullmatch(entry.key):
                raise Wrong(entry.where, f"`{entry.key}` cannot be the name of {what}")
            value = scalar(entry.value, "a text")
            if value.value is None:
                raise Wrong(value.where, f"expected a text, found {kind_of(value)}", 'write "" for an empty one')
        return found

    return read


def query(node: Node) -> Mapping:
    """Parameters of an address: texts and numbers, or lists of them, by name."""
    found = mapping(node)
    for entry in found.entries:
        values = entry.value.items if isinstance(entry.value, Sequence) else (entry.value,)
        for value in values:
            scalar(value, "a text, a number or a list of them")
    return found


def embed_params(node: Node) -> Mapping:
    """A mapping of what else the API for embeddings takes."""
    found = mapping(node)
    for key, where in found.keys().items():
        if key in EMBED_OPTIONS:
            raise Wrong(where, f"`{key}` does not belong under `params`", EMBED_OPTIONS[key])
    return found


def arguments_or_template(node: Node) -> Mapping | Scalar:
    """Inputs of a graph, or one template that gives a mapping of them."""
    if isinstance(node, Scalar) and is_template(node.text):
        return node
    return arguments(node)


def graph(node: Node) -> Scalar | Mapping:
    """A file's name, or the graph itself."""
    if isinstance(node, Mapping):
        return node
    found = written(node)
    if is_template(found.text):
        raise Wrong(found.where, "the name of a workflow cannot be a template", "write its path")
    return found
