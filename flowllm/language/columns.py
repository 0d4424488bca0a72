"""Whether the columns of a data set are inputs of a workflow: found before anything is sent for its rows. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flowllm.core.types import Json
from flowllm.language.inputs import UNREAD, column_names
from flowllm.language.problems import listing, nearest
from flowllm.language.workflow import Input

NODE: Final = "_node"
LETTER: Final = frozenset({NODE, "_error"})
"""What `flowllm failed` adds to a row."""
_SHOWN: Final = 20
_PLAIN: Final = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a data set fits a workflow."""

    error: str = ""
    """Why it is refused; empty if it is not."""
    hint: str = ""
    notices: tuple[str, ...] = ()
    """What may be an oversight."""


def fit_of(inputs: Mapping[str, Input], given: Collection[str], rows: Sequence[Json], name: str) -> Fit:
    """How the first rows of the data set of that name fit; `given` are the inputs that hold for all rows."""
    tables = [row for row in rows if isinstance(row, dict) and not row.keys() >= UNREAD]
    if len(tables) < len(rows):
        return Fit()  # rows that are no mapping are one input, and tell so one by one where they cannot be
    columns = list(dict.fromkeys(column for row in tables for column in column_names(row)))
    found = [column for column in columns if column not in LETTER]
    if not found:
        return Fit()
    letters = [str(row[NODE]) for row in tables if row.keys() >= LETTER]
    if not inputs or not any(column in inputs for column in found):
        return _nothing_fits(inputs, found, letters, name)
    missing = [key for key, one in inputs.items() if one.required and key not in given and key not in found]
    if missing:
        message = f"no row of {name} has {listing(missing)}: it has {_shown(found)}"
        return Fit(
            error=message, hint=_hint(missing, found) or f"add {_them(missing)}, or give {_them(missing)} with -i"
        )
    open_ones = [key for key in inputs if key not in given and key not in found]
    near = {column: _same(column, open_ones) for column in found if column not in inputs}
    for column, key in near.items():
        if key:
            message = f"the column `{column}` of {name} is not the input `{key}`"
            return Fit(error=message, hint=f"did you mean `{key}`? Rename the column, or give the input with -i")
    return Fit(notices=tuple(_oversights([column for column in near if not near[column]], open_ones, name)))


def _nothing_fits(inputs: Mapping[str, Input], found: Sequence[str], letters: Sequence[str], name: str) -> Fit:
    if letters and not any(node.startswith("row[") and node.count("[") == 1 for node in letters):
        return Fit(
            error=f"{name} has failed items of a foreach, and a row of --over is a run of the whole workflow",
            hint=f"mend them, and go on with their run: flowllm resume RUN --mended {name}",
        )
    error = f"no column of {name} is an input: it has {_shown(found)}, and the workflow has "
    if not inputs:
        return Fit(error=f"{error}no inputs", hint="declare them under `inputs`, and write `{{ inputs.x }}`")
    return Fit(error=f"{error}{_shown(list(inputs))}", hint=_hint(list(inputs), found) or "rename its columns")


def _hint(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Columns that may be meant."""
    hints = []
    for key in wanted:
        same = _same(key, found)
        near = f"did you mean `{same}`?" if same else nearest(key, found)
        if near.startswith("did you mean"):
            hints.append(f"for `{key}`: {near}")
    return f"{'; '.join(hints)} Rename the column" if hints else ""


def _oversights(columns: Sequence[str], open_ones: Sequence[str], name: str) -> list[str]:
    hints = []
    for column in columns:
        near = nearest(column, open_ones)
        if near.startswith("did you mean"):
            hints.append(f"the column `{column}` of {name} is no input, and is left alone ({near})")
    return hints


def _same(name: str, others: Sequence[str]) -> str:
    """That of the others which differs in case and marks alone; empty if there is none."""
    plain = _plain(name)
    return next((other for other in others if plain and _plain(other) == plain), "")


def _plain(name: str) -> str:
    return _PLAIN.sub("", name.lower())


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return listing(names) if more <= 0 else f"{', '.join(f'`{one}`' for one in names[:_SHOWN])} and {more} more"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
