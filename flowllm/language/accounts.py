"""Who is asked and what that may cost: providers, limits and budgets of a workflow and of flowllm.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowllm.core.types import Budget, Limits, WindowLimit
from flowllm.language.file_keys import BudgetKeys, EnforceKeys, LimitsKeys, OpenAIKeys, SimulatedKeys
from flowllm.language.keys import read_keys
from flowllm.language.kinds import AUTO, BUILT_IN
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, kind_of
from flowllm.language.problems import Problems, SourceError
from flowllm.language.values import PROVIDER_NAME
from flowllm.language.workflow import ProviderSettings


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
