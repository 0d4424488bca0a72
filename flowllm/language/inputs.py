"""The inputs of a workflow: what is declared, what is given, and which columns of a data set are among them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence as AbstractSequence
from shlex import quote
from typing import Final

from flowllm.core import strict_json
from flowllm.core.errors import InvalidInputs
from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.language.file_keys import InputKeys
from flowllm.language.keys import read_keys
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, Sequence, kind_of, plain_data, resolve
from flowllm.language.problems import Problems, SourceError, listing, nearest
from flowllm.language.values import NAME
from flowllm.language.workflow import MISSING, Input, Workflow

_LONGEST_SHOWN = 60


def parse_inputs(node: Node | None, problems: Problems) -> dict[str, Input]:
    """The declarations under `inputs`. Adds problems; the names are all there."""
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        problems.add(node.where, f"`inputs` must be a mapping, found {kind_of(node)}", "write `name: default`")
        return {}
    return {entry.key: _input(entry, problems) for entry in node.entries}


def _input(entry: Entry, problems: Problems) -> Input:
    name, node = entry.key, entry.value
    if not NAME.fullmatch(name):
        problems.add(entry.where, f"`{name}` cannot be the name of an input", "use a-z, 0-9 and _, not a digit first")
    if isinstance(node, Mapping):
        return _declared(name, node, problems)
    value = plain_data(node)
    return Input(name=name) if value is None else Input(name=name, type=type_name(value), default=value)


def _declared(name: str, node: Mapping, problems: Problems) -> Input:
    keys = read_keys(InputKeys, node, f"the input `{name}`", problems)
    if keys is None:
        return Input(name=name, default=None)
    given = node.get("default")
    kind = keys.type or _inferred(given)
    try:
        default = MISSING if given is None else _typed(given, kind)
        enum = _enum(node.get("enum"), kind)
        if default is not MISSING and enum is not None and not _among(default, enum):
            problems.add_error(_not_among(given or node, enum))
    except SourceError as error:
        problems.add_error(error)
        return Input(name=name, type=kind, default=None)
    return Input(name=name, type=kind, default=default, enum=enum, description=keys.description)


def _not_among(node: Node, enum: tuple[Json, ...]) -> SourceError:
    return SourceError(node.where, f"the default is not one of `enum`: {_shown(enum)}")


def _inferred(default: Node | None) -> str:
    value = None if default is None else plain_data(default)
    return "string" if value is None else type_name(value)


def _typed(node: Node, kind: str) -> Json:
    """A default or a value of `enum` of that type; text is taken as written."""
    if kind == "string" and isinstance(node, Scalar):
        return node.text
    value = plain_data(node)
    if not fits(value, kind):
        raise SourceError(node.where, f"expected {_A[kind]}, found {kind_of(node)}")
    return value


def _enum(node: Node | None, kind: str) -> tuple[Json, ...] | None:
    if node is None:
        return None
    if not isinstance(node, Sequence) or not node.items:
        raise SourceError(node.where, "`enum` must be a list of values", "write [a, b]")
    return tuple(_typed(item, kind) for item in node.items)


_A = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def type_name(value: Json) -> str:
    """The input type of a JSON value that is not null."""
    kinds = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "string")


def fits(value: Json, kind: str) -> bool:
    """Whether a JSON value is of an input type; a whole number is a number too."""
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value is not None and isinstance(value, str | bool | int | float | list | dict) and type_name(value) == kind


def _among(value: Json, allowed: tuple[Json, ...]) -> bool:
    """Equality of JSON values: true is not 1."""
    return any(type(one) is type(value) and one == value for one in allowed) or (
        type(value) in (int, float) and any(type(one) in (int, float) and one == value for one in allowed)
    )


def resolve_inputs(
    workflow: Workflow,
    given: AbstractMapping[str, Json],
    texts: AbstractMapping[str, str] | None = None,
    *,
    partial: bool = False,
) -> dict[str, Json]:
    """The values of all inputs, checked, in the order of the workflow.

    `given` are values of the inputs' types; `texts`, which win over them, are converted first (command line, CSV).
    `partial`: only those that are given, the others come with each row of a data set.
    Raises InvalidInputs, with all errors at once.
    """
    texts = texts or {}
    given = {**given, **texts}
    errors = [
        f"unknown input `{name}`: {nearest(name, workflow.inputs) or 'the workflow has none'}"
        for name in given
        if name not in workflow.inputs
    ]
    values: dict[str, Json] = {}
    missing = []
    for name, declared in workflow.inputs.items():
        if name not in given:
            if partial:
                continue
            values[name] = None if declared.default is MISSING else declared.default
            missing += [name] if declared.required else []
            continue
        try:
            values[name] = _accept(declared, given[name], text=name in texts)
        except ValueError as error:
            errors.append(f"input `{name}`: {error}")
    errors += [f"input `{name}` is missing{_about(workflow.inputs[name])}" for name in missing]
    if errors:
        hint = f"give {listing(missing)} with -i {missing[0]}=…" if missing else ""
        raise InvalidInputs("\n".join(errors), hint=hint)
    return values


def with_inputs(
    inputs: AbstractMapping[str, Input], given: AbstractMapping[str, Json], *, whole: bool = False
) -> dict[str, Json]:
    """The inputs of a graph from `with`: texts are converted to the types of their inputs. Raises InvalidInputs.

    `whole`: it is one mapping of other data, such as a row, whose further columns are left alone.
    """
    if not isinstance(given, dict):
        raise InvalidInputs(f"`with` must give a mapping, not {_short(given)}")
    if whole and (not given or any(name.strip() in inputs for name in given)):
        return row_inputs(inputs, given)
    unknown = [name for name in given if name not in inputs]
    if unknown:
        raise InvalidInputs(f"unknown input `{unknown[0]}`: {nearest(unknown[0], inputs) or 'it has none'}")
    return _from_data(inputs, given, {})


UNREAD = frozenset({"_line", "_text"})
"""The columns of a row that stands for one that could not be read."""


def column_names(row: AbstractMapping[str, Json]) -> list[str]:
    """The names of a row's columns without spaces around them."""
    return [name.strip() for name in row]


def row_inputs(inputs: AbstractMapping[str, Input], row: Json) -> dict[str, Json]:
    """The inputs of a workflow from one row of a data set: its columns by name, others are left aside.

    A row that is no mapping is the one input that has no default, or the only one. Raises InvalidInputs.
    """
    if isinstance(row, dict):
        if row.keys() >= UNREAD:
            raise InvalidInputs(
                f"this row is what could be made of line {row['_line']} of a data set, which could not be read",
                hint="mend that line, and give the data set again",
            )
        columns = dict(zip(column_names(row), row.values(), strict=True))
        return _from_data(inputs, {**columns, **row}, columns)
    required = [name for name, declared in inputs.items() if declared.required]
    alone = required if len(required) == 1 else list(inputs)
    if len(alone) != 1:
        raise InvalidInputs(
            f"the row is {_short(row)}, which names no input",
            hint=f"rows are mappings with {listing(list(inputs)) if inputs else 'no input at all'}",
        )
    return _from_data(inputs, {alone[0]: row}, {})


def _from_data(
    inputs: AbstractMapping[str, Input], given: AbstractMapping[str, Json], columns: AbstractMapping[str, Json]
) -> dict[str, Json]:
    values: dict[str, Json] = {}
    missing = []
    for name, declared in inputs.items():
        if name in given:
            value = given[name]
            try:
                values[name] = _accept(declared, value, text=isinstance(value, str))
            except ValueError as error:
                raise InvalidInputs(f"input `{name}`: {error}") from None
        elif declared.default is MISSING:
            missing.append(name)
        else:
            values[name] = declared.default
    if missing:
        message = "; ".join(f"input `{name}` is missing{_about(inputs[name])}" for name in missing)
        raise InvalidInputs(message, hint=nearest(missing[0], columns))
    return values


def _about(declared: Input) -> str:
    return f" ({declared.description})" if declared.description else ""


def _accept(declared: Input, value: Json, *, text: bool) -> Json:
    if text and isinstance(value, str):
        converted = _converted(value, declared.type)
        value = value if converted is None and declared.default is not None else converted
    if value is None and declared.default is None:
        return None
    if not fits(value, declared.type):
        wanted = f"expected {_A[declared.type]}, got {_short(value)}"
        if declared.type == "string" and value is not None:
            wanted += f" (declare it as `{declared.name}: {{type: {type_name(value)}}}` to take such values)"
        raise ValueError(wanted)
    if declared.enum is not None and not _among(value, declared.enum):
        raise ValueError(f"{_short(value)} is not one of {_shown(declared.enum)}")
    return value


def _converted(text: str, kind: str) -> Json:
    """The value that a text stands for; the text itself where it stands for none of that type."""
    if kind == "string":
        return text
    if kind not in {"array", "object"}:
        return resolve(text.strip())
    try:
        return strict_json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected {_A[kind]} as JSON, got {_short(text)} ({error})") from None


def _short(value: Json) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "…"


def _shown(values: tuple[Json, ...]) -> str:
    return ", ".join(_short(value) for value in values)


NODE: Final = "_node"
LETTER: Final = frozenset({NODE, "_error"})
"""What `flowllm failed` adds to a row."""
_SHOWN: Final = 20
_PLAIN: Final = re.compile(r"[^a-z0-9]")


def own_fields(row: Json) -> Json:
    """A row without what `flowllm failed` adds to one."""
    if isinstance(row, dict) and not LETTER.isdisjoint(row):
        return {name: value for name, value in row.items() if name not in LETTER}
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a data set fits a workflow."""

    error: str = ""
    """Why it is refused; empty if it is not."""
    hint: str = ""
    notices: tuple[str, ...] = ()
    """What may be an oversight."""


def fit_of(inputs: AbstractMapping[str, Input], given: Collection[str], rows: AbstractSequence[Json], name: str) -> Fit:
    """How the first rows of the data set of that name fit; `given` are the inputs that hold for all rows."""
    tables = [row for row in rows if isinstance(row, dict) and not row.keys() >= UNREAD]
    if len(tables) < len(rows):
        return Fit()  # rows that are no mapping are one input, and each is reported where it cannot be
    columns = list(dict.fromkeys(column for row in tables for column in column_names(row)))
    found = [column for column in columns if column not in LETTER]
    if not found:
        return Fit()
    letters = [str(row[NODE]) for row in tables if row.keys() >= LETTER]
    if not inputs or not any(column in inputs for column in found):
        return _nothing_fits(inputs, found, letters, name)
    missing = [key for key, one in inputs.items() if one.required and key not in given and key not in found]
    if missing:
        message = f"no row of {name} has {listing(missing)}: it has {_some(found)}"
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


def _nothing_fits(
    inputs: AbstractMapping[str, Input], found: AbstractSequence[str], letters: AbstractSequence[str], name: str
) -> Fit:
    if letters and not any(node.startswith("row[") and node.count("[") == 1 for node in letters):
        return Fit(
            error=f"{name} has failed items of a foreach, and a row of --over is a run of the whole workflow",
            hint=f"mend them, and go on with their run: flowllm resume RUN --mended {quote(name)}",
        )
    error = f"no column of {name} is an input: it has {_some(found)}, and the workflow has "
    if not inputs:
        return Fit(error=f"{error}no inputs", hint="declare them under `inputs`, and write `{{ inputs.x }}`")
    return Fit(error=f"{error}{_some(list(inputs))}", hint=_hint(list(inputs), found) or "rename its columns")


def _hint(wanted: AbstractSequence[str], found: AbstractSequence[str]) -> str:
    """Columns that may be meant."""
    hints = []
    for key in wanted:
        same = _same(key, found)
        near = f"did you mean `{same}`?" if same else nearest(key, found)
        if near.startswith("did you mean"):
            hints.append(f"for `{key}`: {near}")
    return f"{'; '.join(hints)} Rename the column" if hints else ""


def _oversights(columns: AbstractSequence[str], open_ones: AbstractSequence[str], name: str) -> list[str]:
    hints = []
    for column in columns:
        near = nearest(column, open_ones)
        if near.startswith("did you mean"):
            hints.append(f"the column `{column}` of {name} is no input, and is left alone ({near})")
    return hints


def _same(name: str, others: AbstractSequence[str]) -> str:
    """That of the others which differs in case and marks alone; empty if there is none."""
    plain = _plain(name)
    return next((other for other in others if plain and _plain(other) == plain), "")


def _plain(name: str) -> str:
    return _PLAIN.sub("", name.lower())


def _some(names: AbstractSequence[str]) -> str:
    more = len(names) - _SHOWN
    return listing(names) if more <= 0 else f"{', '.join(f'`{one}`' for one in names[:_SHOWN])} and {more:,} more"


def _them(names: AbstractSequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
