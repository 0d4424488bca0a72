"""What an account allows and what a run may spend: tables of the workflow and of flowllm.yaml, read and merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowllm.core.types import Budget, Limits, WindowLimit
from flowllm.language.model import BudgetShape, EnforceShape, LimitsShape, read_shape
from flowllm.language.nodes import Node
from flowllm.language.problems import Problems


def parse_limits(node: Node, problems: Problems) -> LimitsShape | None:
    """A table of limits."""
    return read_shape(LimitsShape, node, "`limits`", problems)


def limits_of(*shapes: EnforceShape | None) -> Limits | None:
    """Limits from tables; of each key the first table that has it counts, also within each of the `models`."""
    tables = [shape for shape in shapes if shape is not None]
    if not tables:
        return None
    given = _merged(*tables)
    if "windows" in given:
        given["windows"] = tuple(WindowLimit(**dict(window)) for window in given["windows"])
    if "models" in given:
        models = [shape.models or {} for shape in tables if isinstance(shape, LimitsShape)]
        names = dict.fromkeys(name for table in models for name in table)
        given["models"] = {name: limits_of(*(table.get(name) for table in models)) for name in names}
    return Limits(**given)


def capped(limits: Limits, most: int) -> Limits:
    """The same limits with no more than that many requests in flight."""
    return replace(limits, max_concurrent=min(limits.max_concurrent or most, most))


def parse_budget(node: Node, problems: Problems, *, under: BudgetShape | None = None) -> BudgetShape | None:
    """A table of what a run may spend; with the one `under` it, it names an amount."""
    shape = read_shape(BudgetShape, node, "`budget`", problems)
    if shape is not None and not _merged(shape, under).keys() & {"usd", "tokens"}:
        problems.add(node.where, "this budget has no amount", "write {usd: 5} or {tokens: 2_000_000}")
    return shape


def budget_of(*shapes: BudgetShape | None) -> Budget | None:
    """A budget from tables; of each key the first table that has it counts."""
    return Budget(**_merged(*shapes)) if any(shape is not None for shape in shapes) else None


def _merged(*shapes: EnforceShape | BudgetShape | None) -> dict[str, Any]:
    """The keys that are there, each from the first table that has it."""
    given: dict[str, Any] = {}
    for shape in reversed(shapes):
        given |= {key: value for key, value in shape or () if value is not None}
    return given
