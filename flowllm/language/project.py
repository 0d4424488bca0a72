"""flowllm.yaml, and what it shares with workflows: who is asked, and what that may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as AbstractMapping
from pathlib import Path
from typing import Any, TypeVar

from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import Budget, Limits, WindowLimit
from flowllm.language.file_keys import (
    BudgetKeys,
    DefaultsKeys,
    EnforceKeys,
    LimitsKeys,
    OpenAIKeys,
    ProjectKeys,
    SimulatedKeys,
    WorkflowKeys,
)
from flowllm.language.files import DiskFiles, Files, Sources, Unreadable, absolute
from flowllm.language.keys import Keys, read_keys
from flowllm.language.kinds import AUTO, BUILT_IN
from flowllm.language.literals import checked
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, constant, kind_of, scalars
from flowllm.language.problems import Location, Problems, SourceError
from flowllm.language.source import parse_yaml
from flowllm.language.values import PROVIDER_NAME, is_template
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
    for above in (folder, *folder.parents):
        if (above / PROJECT_FILE).is_file():
            return above / PROJECT_FILE
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
        if templates and entry.key == "model":  # there is one, so that no step is reported to have none
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
        low, high = entries[entry.key].value if entry.key in _MERGED and entry.key in entries else None, entry.value
        if isinstance(low, Mapping) and isinstance(high, Mapping):
            keys = {inner.key: inner for inner in (*low.entries, *high.entries)}
            both = Mapping(where=high.where, entries=tuple(keys.values()))
            entry = replace(entry, value=both)  # noqa: PLW2901 - the entry with what it inherits
        entries[entry.key] = entry
    return Mapping(where=over.where, entries=tuple(entries.values()))


def parse_providers(node: Node, problems: Problems) -> dict[str, ProviderSettings]:
    """The entries under `providers`."""
    found = {}
    for entry in entries_of(node, "providers"):
        if entry.key == AUTO:
            problems.add(entry.where, "`auto` is built in and cannot be defined", "choose another name")
        elif not PROVIDER_NAME.fullmatch(entry.key):
            problems.add(
                entry.where, f"`{entry.key}` cannot be the name of a provider", "use letters, digits, . _ and -"
            )
        settings = _provider(entry, problems)
        found[entry.key] = settings or ProviderSettings(name=entry.key, type="openai")
    return found


def _provider(entry: Entry, problems: Problems) -> ProviderSettings | None:
    what = f"the provider `{entry.key}`"
    if not isinstance(entry.value, Mapping):
        problems.add(
            entry.value.where, f"{what} must be a mapping, found {kind_of(entry.value)}", "write {type: openai}"
        )
        return None
    kind = entry.value.get("type")
    name = kind.text if isinstance(kind, Scalar) else entry.key
    if kind is None and entry.key not in BUILT_IN:
        problems.add(entry.where, f"`type` is missing in {what}", "write `type: openai` or `type: simulated`")
        return None
    if entry.key == "simulated" and name != "simulated":  # asking for `simulated` must never send anything
        problems.add((kind or entry.value).where, "`simulated` is always simulated", "choose another name")
    table: type[SimulatedKeys | OpenAIKeys] = SimulatedKeys if name == "simulated" else OpenAIKeys
    keys = read_keys(table, entry.value, what, problems)
    if keys is None:
        return None
    settings = {key: value for key, value in keys.values.items() if key not in {"limits", "enforce"}}
    enforce = limits_of(keys.enforce) if isinstance(keys, SimulatedKeys) else None
    return ProviderSettings(
        **{**settings, "type": name}, name=entry.key, limits=limits_of(keys.limits), enforce=enforce
    )


def entries_of(node: Node, what: str) -> Iterable[Entry]:
    """The entries of a mapping. Raises SourceError."""
    if not isinstance(node, Mapping):
        raise SourceError(node.where, f"`{what}` must be a mapping, found {kind_of(node)}")
    return node.entries


def limits_of(*tables: EnforceKeys | None) -> Limits | None:
    """Limits from tables; of each key the first table that has it counts, also within each of the `models`."""
    found = [table for table in tables if table is not None]
    if not found:
        return None
    given = _merged(*found)
    if given.get("max_concurrent") == AUTO:
        del given["max_concurrent"]
    if "windows" in given:
        given["windows"] = tuple(WindowLimit(**window.values) for window in given["windows"])
    if "models" in given:
        models = [table.models or {} for table in found if isinstance(table, LimitsKeys)]
        names = dict.fromkeys(name for table in models for name in table)
        given["models"] = {name: limits_of(*(table.get(name) for table in models)) for name in names}
    return Limits(**given)


def parse_budget(node: Node, *, under: BudgetKeys | None = None) -> BudgetKeys:
    """A table of what a run may spend; with the one `under` it, it names an amount. Raises as Keys.read does."""
    table = BudgetKeys.read(node, "`budget`")
    if not _merged(table, under).keys() & {"usd", "tokens"}:
        raise SourceError(node.where, "this budget has no amount", "write {usd: 5} or {tokens: 2_000_000}")
    return table


def budget_of(*tables: BudgetKeys | None) -> Budget | None:
    """A budget from tables; of each key the first table that has it counts."""
    return Budget(**_merged(*tables)) if any(table is not None for table in tables) else None


def _merged(*tables: EnforceKeys | BudgetKeys | None) -> dict[str, Any]:
    """The keys that are there, each from the first table that has it."""
    given: dict[str, Any] = {}
    for table in reversed(tables):
        given |= {key: value for key, value in (table.values if table else {}).items() if value is not None}
    return given
