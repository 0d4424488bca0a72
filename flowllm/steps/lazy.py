"""Whole outputs of a foreach that are handed on without being held in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from flowllm.core.types import Json
from flowllm.language.template import Template, ValueTemplate

LAZY: Final = "_lazy"
"""Where such outputs are among the values of a graph; no template can name it."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A sequence that reads its items when they are looked at, and a digest of all of them for keys."""

    sequence: Sequence[Json]
    digest: str


def lazy_arguments(
    arguments: ValueTemplate | None, values: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Sequence[Json]]]:
    """Arguments with templates rendered; those that are exactly one whole output of a foreach stand there with their
    digest, and apart as the sequence. Raises TemplateFailed."""
    if arguments is None:
        return {}, {}
    known = values.get(LAZY) or {}
    if not known or not isinstance(arguments.tree, dict):
        return cast("dict[str, Json]", arguments.render(values)), {}
    shown: dict[str, Json] = {}
    sequences: dict[str, Sequence[Json]] = {}
    for name, tree in arguments.tree.items():
        bare = tree.bare if isinstance(tree, Template) else None
        lazy = None if bare is None else known.get(bare)
        if lazy is None:
            shown[name] = ValueTemplate(tree=tree, references=()).render(values)
        else:
            shown[name] = {"foreach": bare, "digest": lazy.digest}
            sequences[name] = lazy.sequence
    return shown, sequences
