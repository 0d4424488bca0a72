"""What a command line changes in a workflow: `--provider`, `--model` and `--set`."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as AbstractMapping

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, field
from flowllm.language.file_keys import DefaultsKeys
from flowllm.language.kinds import kinds
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, constant
from flowllm.language.problems import Location, Problems, SourceError, nearest
from flowllm.language.source import parse_yaml

_DEFAULTS = "defaults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Changes to a workflow for one run."""

    provider: str | None = None
    """The default provider; `simulated` replaces all, also those that steps name."""
    model: str | None = None
    """The default model; steps that name their own keep it."""
    settings: AbstractMapping[str, str] = field(default_factory=dict)
    """Option to value, such as {"judge.model": "gpt-4o", "defaults.temperature": "0"}."""


def overridden(root: Mapping, overrides: Overrides, problems: Problems, *, within: str = "") -> Mapping:
    """A workflow's nodes with the changes in them; `within` is the path of a graph within it, such as `post.`.

    Raises UsageError for a step or an option that does not exist. What is wrong with a value is found
    later, like everything else, at a place named after the option.
    """
    for option, value in overrides.settings.items():
        if option.startswith(within):
            root = _set(root, option, option[len(within) :], value, problems)
    for key, given in (("provider", overrides.provider), ("model", overrides.model)):
        if given is not None:
            problems.learn(f"--{key}", given)
            root = _put(root, (_DEFAULTS, key), constant(given, Location(file=f"--{key}", line=1, column=1)))
    return root


def _set(root: Mapping, option: str, path: str, value: str, problems: Problems) -> Mapping:
    """`path` is the option as seen from this graph."""
    owner, dot, key = path.partition(".")
    if not dot or not owner or not key:
        raise UsageError(f"--set {option}: this is not an option of a step", hint="write --set step.option=value")
    where = Location(file=f"--set {option}", line=1, column=1)
    problems.learn(where.file, value)
    try:
        node = _value_node(value, where)
    except SourceError as error:
        raise UsageError(f"--set {option}={value}: {error.message}", hint=error.hint) from None
    if owner == _DEFAULTS:
        _check_option(option, key, DefaultsKeys.table)
        return _put(root, (_DEFAULTS, *key.split(".")), node)
    steps = root.get("steps")
    step = steps.get(owner) if isinstance(steps, Mapping) else None
    if step is None:
        known = [*(steps.keys() if isinstance(steps, Mapping) else ()), _DEFAULTS]
        raise UsageError(f"--set {option}: there is no step `{owner}`", hint=nearest(owner, known))
    kind = next((kind for kind in kinds() if isinstance(step, Mapping) and step.get(kind) is not None), None)
    if kind is None or (kind == "workflow" and "." in key):
        return root  # invalid in itself, which is reported when it is read; or an option of a step of the graph within
    _check_option(option, key, kinds()[kind].keys.table)
    return _put(root, ("steps", owner, *key.split(".")), node)


def _check_option(option: str, key: str, known: Iterable[str]) -> None:
    """Keys within an option, such as `retry.hedge`, are checked when they are read."""
    head = key.partition(".")[0]
    if head not in known:
        raise UsageError(f"--set {option}: there is no option `{head}` here", hint=nearest(head, known))


def _value_node(value: str, where: Location) -> Node:
    text = value.strip()
    if text.startswith(("[", "{")) and not text.startswith(("{{", "{%", "{#")):
        return parse_yaml(value, where.file)
    return Scalar(where=where, text=value)


def _put(root: Mapping, path: tuple[str, ...], value: Node) -> Mapping:
    key, rest = path[0], path[1:]
    entry = root.entry(key)
    if rest:
        inner = entry.value if entry is not None and isinstance(entry.value, Mapping) else None
        value = _put(inner or Mapping(where=value.where, entries=()), rest, value)
    if entry is None:
        return Mapping(where=root.where, entries=(*root.entries, Entry(key=key, where=value.where, value=value)))
    replaced = Entry(key=key, where=entry.where, value=value)
    return Mapping(where=root.where, entries=tuple(replaced if one is entry else one for one in root.entries))
