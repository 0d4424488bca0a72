"""Warns of prompts in which what differs from item to item comes before a long text that is the same for all of them.

Providers charge a tenth for the beginning of a prompt that they have seen lately; what stands behind the first difference is
charged in full, however often it was sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from flowllm.core.types import CACHED_FROM, Json
from flowllm.language.problems import Problems
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import Input, LlmBody, Step, WorkflowBody

_INPUT = re.compile(r"\{\{-?\s*inputs\.(\w+)\s*(?:\|\s*trim\s*)?-?\}\}")
_SPAN = re.compile(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})", re.DOTALL)
_CHARACTERS_A_TOKEN = 4
"""Of English; fewer of other languages, of which then more tokens follow than is said."""


def check_prompt_order(step: Step, inputs: Mapping[str, Input], problems: Problems) -> None:
    """Warn of each prompt of a foreach, also within the graph that it executes, whose varying part comes first. Of the
    `inputs` of its graph it is known how long their defaults are."""
    if step.foreach is None:
        return
    items = {step.foreach.name, "index"}
    if isinstance(step.body, WorkflowBody):
        _check_graph(step.body, items, _lengths(inputs), problems)
    else:
        _check(step, _named(items), _lengths(inputs), problems)


def _lengths(inputs: Mapping[str, Input]) -> dict[str, int]:
    """Characters of the texts that inputs are by default."""
    return {name: len(one.default) for name, one in inputs.items() if isinstance(one.default, str)}


def _length(text: Json | Template, lengths: Mapping[str, int]) -> int:
    """Characters that it is known to have."""
    if isinstance(text, Template):
        return sum(_length(piece, lengths) for piece in _SPAN.split(text.raw))
    if not isinstance(text, str):
        return 0
    named = _INPUT.fullmatch(text)
    return lengths.get(named[1], 0) if named else 0 if _SPAN.fullmatch(text) else len(text)


def _check_graph(body: WorkflowBody, items: Collection[str], outer: Mapping[str, int], problems: Problems) -> None:
    """The inputs that vary with the item do so in the graph, and what is made of them."""
    graph, lengths = body.graph, _lengths(body.graph.inputs)
    given = None if body.arguments is None else body.arguments.tree
    if isinstance(given, dict):
        lengths |= {name: _length(value, outer) for name, value in given.items()}
    inputs = list(_varying_inputs(body, items))
    if not inputs:
        return
    varying = rf"inputs\.(?:{'|'.join(map(re.escape, inputs))})\b"
    dependents: dict[str, list[str]] = {}
    for step in graph.steps.values():
        for need in step.edges:
            dependents.setdefault(need, []).append(step.id)
    found: set[str] = set()
    waiting: list[str] = [step.id for step in graph.steps.values() if _looks_at(step, varying)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += dependents.get(name, [])
    for step in graph.steps.values():
        own = set() if step.foreach is None else {step.foreach.name, "index"}
        named = found | own
        _check(step, f"{varying}|{_named(named)}" if named else varying, lengths, problems)


def _varying_inputs(body: WorkflowBody, items: Collection[str]) -> Iterator[str]:
    given = {} if body.arguments is None else body.arguments.tree
    if not isinstance(given, dict):  # a whole mapping
        given = dict.fromkeys(body.graph.inputs, given)
    for name, value in given.items():
        if not ValueTemplate.of(value).names.isdisjoint(items):
            yield name


def _looks_at(step: Step, varying: str) -> bool:
    return any(re.search(varying, span) for template in _all(step) for span in _SPAN.findall(template.raw))


def _all(step: Step) -> Iterator[Template]:
    for name in step.body.__dataclass_fields__:
        value = getattr(step.body, name)
        if isinstance(value, Template):
            yield value
        elif isinstance(value, ValueTemplate):
            yield from value.templates


def _named(names: Collection[str]) -> str:
    return rf"(?<![\w.'\"])(?:steps\.)?(?:{'|'.join(sorted(map(re.escape, names)))})\b"


def _check(step: Step, varying: str, lengths: Mapping[str, int], problems: Problems) -> None:
    if not isinstance(step.body, LlmBody):
        return
    first: tuple[Template, int, str] | None = None
    before = behind = 0
    for template in _in_order(step.body):
        offset = 1
        for piece in _SPAN.split(template.raw):
            varies = _SPAN.fullmatch(piece) and re.search(varying, piece)
            if varies:
                first = first or (template, offset, piece)
            elif first is None:
                before += _length(piece, lengths)
            else:
                behind += _length(piece, lengths)
            offset += len(piece)
    tokens = behind // _CHARACTERS_A_TOKEN
    if first is not None and tokens >= CACHED_FROM and behind > before:
        template, offset, piece = first
        shown = " ".join(piece.split())
        problems.warn(
            template.place(offset),
            f"{shown} differs from item to item, and about {tokens:,} tokens that are the same for all come after it: "
            "providers charge less only for a beginning that they have seen",
            "put what stays the same first, in `system` or at the top of the prompt, and what differs behind it",
            step=step.id,
        )


def _in_order(body: LlmBody) -> Iterator[Template]:
    """The texts of the messages in the order in which they are sent."""
    if body.messages is not None:
        yield from body.messages.templates
        return
    for template in (body.system, body.prompt):
        if template is not None:
            yield template
