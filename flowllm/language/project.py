"""`flowllm.yaml`, and what its sections have in common with those of workflows."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as AbstractMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from flowllm.language.accounts import parse_budget, parse_providers
from flowllm.language.file_keys import BudgetKeys, LimitsKeys, ProjectKeys, WorkflowKeys
from flowllm.language.files import DiskFiles, Files, Sources, Unreadable, absolute
from flowllm.language.keys import Keys, read_keys
from flowllm.language.literals import checked
from flowllm.language.nodes import Entry, Mapping, Node, constant, kind_of, scalars
from flowllm.language.problems import Location, Problems, SourceError
from flowllm.language.source import parse_yaml
from flowllm.language.step_keys import DefaultsKeys
from flowllm.language.values import is_template
from flowllm.language.workflow import ProviderSettings

T = TypeVar("T")

PROJECT_FILE = "flowllm.yaml"
_MERGED = ("retry", "params")
"""Options that are merged key by key; every other one is replaced as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What flowllm.yaml gives to every workflow."""

    path: str = ""
    """Absolute path of the file; empty if there is none."""
    text: str = ""
    providers: AbstractMapping[str, ProviderSettings] = field(default_factory=dict)
    limits: LimitsKeys | None = None
    """Of the account that the default provider names; a workflow's own keys win."""
    defaults: Mapping | None = None
    """The nodes under `defaults`, checked."""
    budget: BudgetKeys | None = None
    """Of each run; a workflow's own keys win."""
    tenants: AbstractMapping[str, float] = field(default_factory=dict)
    """Weights by name: shares of an account are in proportion to them; a tenant that is not here weighs 1."""
    database: str | None = None
    """As written."""
    prices: AbstractMapping[str, AbstractMapping[str, float]] = field(default_factory=dict)
    """US dollars per million tokens, by model: input, output, cached_input."""


def find_project(start: Path) -> Path | None:
    """The flowllm.yaml of a folder or of the nearest one above it."""
    folder = start.resolve()
    for place in (folder, *folder.parents):
        if (place / PROJECT_FILE).is_file():
            return place / PROJECT_FILE
    return None


def load_project(path: str | Path, *, files: Files | None = None) -> Project:
    """Read and check a project's file. Raises InvalidWorkflow with all its problems."""
    name, problems = str(path), Problems()
    sources = Sources(files or DiskFiles(), problems)
    root = read_root(name, "flowllm.yaml", sources, problems)
    if root is None:
        checked(problems)
        return Project(path=absolute(name))  # an empty file is an empty project
    check_top(root, ProjectKeys, "flowllm.yaml", problems)
    top = Sections(root, problems)
    project = Project(
        path=absolute(name),
        text=sources.texts[absolute(name)],
        providers=top.get("providers", lambda node: parse_providers(node, problems)) or {},
        limits=top.get("limits", ProjectKeys.limits.value),
        defaults=top.get("defaults", lambda node: parse_defaults(node, problems)),
        budget=top.get("budget", parse_budget),
        tenants=top.get("tenants", ProjectKeys.tenants.value) or {},
        database=top.get("database", ProjectKeys.database.value),
        prices=top.get("prices", ProjectKeys.prices.value) or {},
    )
    checked(problems)
    return project


def read_root(name: str, what: str, sources: Sources, problems: Problems) -> Mapping | None:
    """The mapping that a file holds; problems otherwise."""
    try:
        root = parse_yaml(sources.read(name), name)
    except Unreadable as error:
        where = Location(file=name, line=error.line or 1, column=error.column or 1)
        problems.add(where, f"this file cannot be read: {error.message}")
        return None
    except SourceError as error:
        problems.add_error(error)
        return None
    if isinstance(root, Mapping):
        return root
    problems.add(root.where, f"{what} is a mapping of keys, this is {kind_of(root)}")
    return None


def check_top(root: Mapping, table: type[Keys], what: str, problems: Problems) -> None:
    """Add a problem for each key at the top that does not exist; `x-…` keys are the author's own."""
    for key, where in root.keys().items():
        if key not in table.table and not key.startswith("x-"):
            error = table.unknown(key, where, what)
            if table is WorkflowKeys and key in ProjectKeys.table:
                error.hint = "it belongs in flowllm.yaml"
            problems.add_error(error)


class Sections:
    """What stands under the keys at the top of a file."""

    def __init__(self, root: Mapping, problems: Problems) -> None:
        self._root = root
        self._problems = problems

    def get(self, key: str, read: Callable[[Node], T]) -> T | None:
        """What a reader gives; None if the key is not there, or invalid, which adds a problem."""
        node = self._root.get(key)
        try:
            return None if node is None else read(node)
        except SourceError as error:
            self._problems.add_error(error)
        except ExceptionGroup as group:
            self._problems.add_errors(group)
        return None


def parse_defaults(node: Node, problems: Problems) -> Mapping | None:
    """The nodes under `defaults`, checked; without keys that are unknown or hold templates."""
    read_keys(DefaultsKeys, node, "`defaults`", problems)
    if not isinstance(node, Mapping):
        return None
    kept = []
    for entry in node.entries:
        if entry.key not in DefaultsKeys.table:
            continue
        templates = [scalar for scalar in scalars(entry.value) if is_template(scalar.text)]
        for scalar in templates:
            problems.add(scalar.where, "a template cannot stand under `defaults`", "write it at the step")
        if templates and entry.key == "model":  # there is one, so that no step is told that it has none
            kept.append(Entry(key=entry.key, where=entry.where, value=constant("refused", entry.where)))
        elif not templates:
            kept.append(entry)
    return Mapping(where=node.where, entries=tuple(kept))


def merged(under: Mapping | None, over: Mapping) -> Mapping:
    """A mapping's keys over those of another; `retry` and `params` are merged key by key."""
    if under is None:
        return over
    entries = {entry.key: entry for entry in under.entries}
    for entry in over.entries:
        below = entries.get(entry.key)
        if below is not None and entry.key in _MERGED and _both_mappings(below.value, entry.value):
            entry = _joined(below, entry)  # noqa: PLW2901 - the entry with what it inherits
        entries[entry.key] = entry
    return Mapping(where=over.where, entries=tuple(entries.values()))


def _both_mappings(one: Node, other: Node) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping)


def _joined(below: Entry, entry: Entry) -> Entry:
    keys: dict[str, Entry] = {}
    for node in (below.value, entry.value):
        if isinstance(node, Mapping):
            keys |= {inner.key: inner for inner in node.entries}
    return Entry(key=entry.key, where=entry.where, value=Mapping(where=entry.value.where, entries=tuple(keys.values())))
