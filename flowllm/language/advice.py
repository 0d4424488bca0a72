"""What may not be what was meant, in a step or an output that is right in itself; and data files that are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

from flowllm.language.files import Sources
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.problems import Problems
from flowllm.language.reference import Location
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.values import is_template
from flowllm.language.workflow import DataFile, EmbedBody, Foreach, LlmBody, Step, WorkflowBody

_PATH = re.compile(r"(?:steps\.)?([a-z_][a-z0-9_]*)(?:\.[A-Za-z0-9_]+|\[[0-9]+\])*")
_REMOTE = ("http:", "https:", "data:")


def advise(step: Step, sources: Sources, problems: Problems, *, outermost: bool) -> None:
    """Add what may be wrong with a step. `outermost`: it is not within another workflow's step."""
    _check_same(step, problems)
    alone = outermost and not step.edges
    for path, where in _named_files(step):
        name, reason = sources.missing(path, where)
        if reason:
            report = problems.add if alone else problems.warn
            hint = f"looked for it at {name}" + ("" if alone else "; right if the run makes it first")
            report(where, f"the file {path} cannot be read: {reason}", hint, step=step.id)


def check_output(node: Node, steps: Collection[str], problems: Problems) -> None:
    """Warn of texts that are no more than the id of a step."""
    if isinstance(node, Mapping):
        for entry in node.entries:
            check_output(entry.value, steps, problems)
    elif isinstance(node, Sequence):
        for item in node.items:
            check_output(item, steps, problems)
    elif isinstance(node, Scalar) and node.is_text and not is_template(node.text):
        text = node.text.strip().removeprefix("$").removeprefix("{").removesuffix("}").strip()
        found = _PATH.fullmatch(text)
        if found is not None and found[1] in steps:
            problems.warn(
                node.where,
                f"this is the text {node.text!r}, not what the step `{found[1]}` gives",
                f'write "{{{{ {text} }}}}"',
            )


def check_saves(steps: Collection[Step], problems: Problems) -> None:
    """Add a problem for each step that saves to a path that another has already, where both are certain to be carried
    out: no `when` is above them."""
    dependents: dict[str, list[str]] = {}
    for step in steps:
        for need in step.edges:
            dependents.setdefault(need, []).append(step.id)
    uncertain: set[str] = set()
    waiting: list[str] = [step.id for step in steps if step.when is not None]
    while waiting:
        name = waiting.pop()
        if name not in uncertain:
            uncertain.add(name)
            waiting += dependents.get(name, [])
    taken: dict[str, str] = {}
    for step in steps:
        path = None if step.save is None else step.save.constant
        if step.save is None or not path or step.foreach is not None or step.id in uncertain:
            continue
        other = taken.setdefault(os.path.normpath(path), step.id)
        if other != step.id:
            problems.add(
                step.save.where,
                f"`{step.id}` saves to {path}, and so does `{other}`",
                "save them under two names",
                step=step.id,
            )


# a foreach whose items all ask the same


def _check_same(step: Step, problems: Problems) -> None:
    foreach = step.foreach
    if foreach is None or not _asks(step) or _is_short(foreach):
        return
    used = set().union(*(template.names for template in _asked(step)))
    if not used & {foreach.name, "index"}:
        what = "graph" if isinstance(step.body, WorkflowBody) else "prompt"
        problems.warn(
            step.where,
            f"all items of `{step.id}` ask the same: its {what} has neither {{{{ {foreach.name} }}}} nor {{{{ index }}}}",
            'it is asked once, and all get that answer; for different ones add `sample: "{{ index }}"`'
            if isinstance(step.body, LlmBody)
            else "hand the item in",
            step=step.id,
        )


def _asks(step: Step) -> bool:
    """It asks a model, and an answer is used again for an equal question."""
    if isinstance(step.body, WorkflowBody):
        return any(_asks(inner) for inner in step.body.graph.steps.values())
    return isinstance(step.body, LlmBody | EmbedBody) and step.cache.enabled


def _is_short(foreach: Foreach) -> bool:
    tree = None if foreach.items is None else foreach.items.tree
    return isinstance(tree, list) and len(tree) < 2  # noqa: PLR2004 - one item has none to equal


def _asked(step: Step) -> Iterator[Template | ValueTemplate]:
    """The templates that decide what is asked."""
    body = step.body
    found: tuple[Template | ValueTemplate | None, ...] = ()
    if isinstance(body, LlmBody):
        found = (body.prompt, body.system, body.messages, body.params, body.sample, body.images)
        found += (body.model, body.provider)
    elif isinstance(body, EmbedBody):
        found = (body.input, body.dimensions, body.params, body.model, body.provider)
    elif isinstance(body, WorkflowBody):
        found = (body.arguments,)
    return (template for template in found if template is not None)


# files


def _named_files(step: Step) -> Iterator[tuple[str, Location]]:
    """Files that a step reads when it runs, where their paths are written out."""
    foreach = step.foreach
    if foreach is not None:
        for source in (foreach.file, *(foreach.matrix or {}).values()):
            if isinstance(source, DataFile) and not source.many and source.path.constant not in {None, "-"}:
                yield str(source.path.constant), source.path.where
    images = step.body.images if isinstance(step.body, LlmBody) else None
    if images is not None:
        for image in images.tree if isinstance(images.tree, list) else [images.tree]:
            if isinstance(image, Template) and image.constant and not image.constant.lower().startswith(_REMOTE):
                yield image.constant, image.where
