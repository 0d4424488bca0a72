"""Sums over the rows of a run, kept by triggers: so they are right whatever writes a row, and however often.

They stand in a table of their own, one row a run: a row of `runs` holds texts of any length, which SQLite would
write anew with every result. Revision 0006 made these triggers as they are here; to change them takes new names.
"""

from __future__ import annotations

from typing import Final

from flowllm.core.types import USAGE_FIELDS

STATUSES: Final = ("running", "waiting", "succeeded", "failed", "skipped", "blocked", "cancelled")
"""Columns that count nodes, items too."""


def _figures() -> dict[str, str]:
    """What one attempt adds to each sum of `Spend`; `@` stands before each of its columns."""
    told = {name: f"json_extract(@usage, '$.{name}')" for name in USAGE_FIELDS}
    counted = f"{told['input_tokens']} + {told['output_tokens']}"
    unseen = f"(@status NOT IN ('succeeded', 'failed') AND {counted} = 0)"
    in_doubt = f"({counted} IS NULL OR {unseen})"
    free = f"(@status = 'failed' AND {counted} = 0 AND @cost_usd IS NULL)"
    cost = f"(CASE WHEN {unseen} THEN NULL WHEN {free} THEN 0.0 ELSE @cost_usd END)"
    least = f"coalesce({told['input_tokens']}, 0) + coalesce({told['output_tokens']}, 0)"
    return {
        "requests": "1",
        **{name: f"coalesce({value}, 0)" for name, value in told.items()},
        **{f"no_{name}": f"({unseen} OR {value} IS NULL)" for name, value in told.items()},
        "known_usd": f"coalesce({cost}, 0.0)",
        "unpriced": f"(NOT {in_doubt} AND {cost} IS NULL)",
        "unknown": in_doubt,
        "reserved_tokens": f"(CASE WHEN {in_doubt} THEN max(0, @reserved_tokens - ({least})) ELSE 0 END)",
        "reserved_usd": f"(CASE WHEN {in_doubt} AND {cost} IS NULL THEN coalesce(@reserved_usd, 0.0) ELSE 0.0 END)",
        "unreserved": f"({in_doubt} AND {cost} IS NULL AND @reserved_usd IS NULL)",
    }


FIGURES: Final = _figures()
SUMS: Final = {name: f"total({value.replace('@', '')})" for name, value in FIGURES.items()}
"""total() is SQLite's sum() of floats: 0.0 for no rows, and no integer overflow."""


def _changed(columns: dict[str, str], *, before: bool) -> str:
    """Assignments that add what a row adds now, less what it added before."""
    return ", ".join(
        f"{name} = {name} + ({value.replace('@', 'NEW.')}" + (f" - {value.replace('@', 'OLD.')})" if before else ")")
        for name, value in columns.items()
    )


def _trigger(table: str, event: str, then: str, *, when: str = "") -> str:
    return f"CREATE TRIGGER {table}_{event.lower()}_totals AFTER {event} ON {table} {when} BEGIN {then}; END"


_COUNTED: Final = {status: f"(@status = '{status}')" for status in STATUSES}
_NUMBERED: Final = "changes = max(changes, NEW.change_no), last_seq = max(last_seq, NEW.seq)"
_SET: Final = "UPDATE totals SET"
_OF_RUN: Final = "WHERE run_id = NEW.run_id"
_NO_WAIT: Final = (
    "DELETE FROM waits WHERE NEW.status IN ('succeeded', 'failed', 'skipped', 'blocked') "
    "AND run_id = NEW.run_id AND node_id = NEW.node_id"
)
TRIGGERS: Final = (
    _trigger("runs", "INSERT", "INSERT INTO totals (run_id) VALUES (NEW.run_id)"),
    _trigger("runs", "DELETE", "DELETE FROM totals WHERE run_id = OLD.run_id"),
    *(
        _trigger(
            "nodes", event, f"{_SET} {_NUMBERED}, {_changed(_COUNTED, before=event == 'UPDATE')} {_OF_RUN}; {_NO_WAIT}"
        )
        for event in ("INSERT", "UPDATE")
    ),
    *(
        _trigger(
            "attempts",
            event,
            f"{_SET} {_changed(FIGURES, before=event == 'UPDATE')} {_OF_RUN}",
            when="WHEN NEW.model <> ''",  # work of a step's own is no request
        )
        for event in ("INSERT", "UPDATE")
    ),
)
