"""Statements of `sql/` in PostgreSQL's words. They are written once, in words that both databases know where there are such;
what differs is here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

_LIST: Final = re.compile(r"json_each\((:\w+|\?)\)")
_MEMBER: Final = re.compile(r"json_extract\(([\w.]+), '\$\.(\w+)'\)")
_ELEMENT: Final = re.compile(r"json_extract\(([\w.]+), '\$\[(\d+)\]'\)")
_NUMBERED: Final = re.compile(r"""json_extract\((:\w+), '\$\."' \|\| ([\w.]+) \|\| '"'\)""")
_GLOB: Final = re.compile(r"([\w.]+) GLOB (:\w+)")
_WORDS: Final = (
    (re.compile(r"\binstr\("), "strpos("),
    (re.compile(r"\bchar\(10\)"), "chr(10)"),
    (re.compile(r"\bdatabase_now\(\)"), "cast(extract(epoch FROM clock_timestamp()) AS float8)"),
    (re.compile(r"json_group_array\((\w+)\)"), r"cast(coalesce(json_agg(\1), '[]') AS text)"),
)
_PLACES: Final = re.compile(r"'(?:[^']|'')*'|::|:([A-Za-z_]\w*)|\?")
_PLAIN: Final = r"replace(replace({}, '\\', ''), '\u', '')"
"""JSON without its escapes: PostgreSQL refuses those of NUL and of lone surrogates, and none are in what is looked for."""
_CUT: Final = " AS INTEGER"


class Translated(NamedTuple):
    """A statement as PostgreSQL takes it."""

    sql: str
    order: Callable[[Any], Sequence[Any]] | None
    """Puts the values of a mapping in order; None where they are in order already."""


@lru_cache(maxsize=1024)
def translated(sql: str) -> Translated:
    """A statement with `$1` in place of `?` or of `:name`, in PostgreSQL's words."""
    for words, here in _WORDS:
        sql = words.sub(here, sql)
    sql = _LIST.sub(r"json_array_elements_text(cast(\1 AS json))", sql)
    sql = _NUMBERED.sub(r"(cast(\1 AS json) ->> cast(\2 AS text))", sql)
    sql = _MEMBER.sub(lambda found: _json(found[1], f"'{found[2]}'"), sql)
    sql = _ELEMENT.sub(lambda found: _json(found[1], found[2]), sql)
    sql = _GLOB.sub(r"\1 LIKE replace(replace(\2, '_', '\\_'), '*', '%')", sql)
    sql = _rounded_down(sql)
    numbers: dict[str, int] = {}
    count = 0

    def numbered(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] == "?":
            count += 1
            return f"${count}"
        if found[1] is None:
            return found[0]
        return f"${numbers.setdefault(found[1], len(numbers) + 1)}"

    sql = _PLACES.sub(numbered, sql)
    return Translated(sql, _ordered(tuple(numbers)) if numbers else None)


def _ordered(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    if len(names) == 1:
        (name,) = names
        return lambda values: (values[name],)
    return itemgetter(*names)


def _json(value: str, which: str) -> str:
    return f"nullif(btrim(cast(cast({_PLAIN.format(value)} AS json) -> {which} AS text), '\"'), 'null')"


def _rounded_down(sql: str) -> str:
    """A number that is cast to INTEGER is cut by SQLite, and rounded by PostgreSQL."""
    end = sql.find(_CUT)
    while end >= 0:
        depth, begin = 0, end
        while depth >= 0:
            begin -= 1
            depth += {")": 1, "(": -1}.get(sql[begin], 0)
        inner = sql[begin + 1 : end]
        sql = f"{sql[: begin + 1]}trunc({inner}) AS BIGINT{sql[end + len(_CUT) :]}"
        end = sql.find(_CUT, end)
    return sql
