"""What an account allows and what a run may spend: tables of the workflow and of flowllm.yaml, read and merged."""

from __future__ import annotations

from typing import Any

from flowllm.core.types import Budget, Limits, WindowLimit
from flowllm.language.file_keys import BudgetKeys, EnforceKeys, LimitsKeys
from flowllm.language.keys import read_keys
from flowllm.language.nodes import Node
from flowllm.language.problems import Problems


def parse_limits(node: Node, problems: Problems) -> LimitsKeys | None:
    """A table of limits."""
    return read_keys(LimitsKeys, node, "`limits`", problems)


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


def parse_budget(node: Node, problems: Problems, *, under: BudgetKeys | None = None) -> BudgetKeys | None:
    """A table of what a run may spend; with the one `under` it, it names an amount."""
    table = read_keys(BudgetKeys, node, "`budget`", problems)
    if table is not None and not _merged(table, under).keys() & {"usd", "tokens"}:
        problems.add(node.where, "this budget has no amount", "write {usd: 5} or {tokens: 2_000_000}")
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
