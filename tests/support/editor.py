"""The YAML that is shipped and documented, as editors see it."""

from __future__ import annotations

import re

from flowllm.core.types import Json
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.source import parse_yaml
from tests.support.documentation import PAGES, ROOT

_EXAMPLE = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BROKEN = [
    ("workflow", "steps: {a: {prompt: hi, temprature: 1}}\n"),
    ("workflow", "steps: {a: {prompt: hi, timeout: 30}}\n"),
    ("workflow", "steps: {a: {prompt: hi, max_tokens: 1_00x}}\n"),
    ("workflow", "steps: {a: {value: 1, shell: ls}}\n"),
    ("workflow", "steps: {a: {value: 1}}\nlimits: {requests_per_minute: fast}\n"),
    ("workflow", "steps: {a: {value: 1}}\ntenants: {a: 1}\n"),
    ("config", "steps: {a: {value: 1}}\n"),
    ("config", "defaults: {retry: {initial_delay: 1}}\n"),
    ("config", "prices: {m: {input: 1}}\n"),
]
"""Kinds and texts of files with a mistake that an editor can see."""


def documents() -> list[tuple[str, str, str]]:
    """Place, kind (workflow or config) and text of each file and example."""
    found = []
    for folder in (ROOT / "workflows", ROOT / "tests" / "corpus" / "valid"):
        found += [(str(path.relative_to(ROOT)), path.read_text("utf-8-sig")) for path in sorted(folder.glob("*.yaml"))]
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for example in _EXAMPLE.finditer(text):
            line = text[: example.start()].count("\n") + 1
            found.append((f"{page.relative_to(ROOT)}:{line}", example[1]))
    return [(place, _kind(text), text) for place, text in found]


def _kind(text: str) -> str:
    root = parse_yaml(text, "example.yaml")
    return "workflow" if isinstance(root, Mapping) and root.get("steps") is not None else "config"


def as_an_editor_reads(text: str) -> Json:
    """The data of a YAML text; numbers with grouped digits are texts."""
    return _data(parse_yaml(text, "example.yaml"))


def _data(node: Node) -> Json:
    if isinstance(node, Mapping):
        return {entry.key: _data(entry.value) for entry in node.entries}
    if isinstance(node, Sequence):
        return [_data(item) for item in node.items]
    return node.text if isinstance(node, Scalar) and "_" in node.text else node.value
