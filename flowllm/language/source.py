"""YAML text to a tree of nodes, each with its place. The only module that uses PyYAML.

Text is first checked as text, then read as a stream of events, each against limits, so that bombs are
refused before anything is built. Scalars stay as written: what they mean is decided by who reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from flowllm.language.nodes import Entry, Mapping, Node, Scalar, Sequence
from flowllm.language.problems import Location, SourceError

MAX_SIZE = 1_000_000
"""Characters of one file."""
MAX_DEPTH = 50
MAX_NODES = 100_000
MAX_ALIASES = 100
MAX_EXPANDED = 20_000
"""Nodes that all aliases of one file may stand for."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it (17 times faster); only its scanner and parser are used."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_FORBIDDEN_IN_VALUE = re.compile("[\x00\ud800-\udfff]")
_TEMPLATE_AS_VALUE = re.compile(r"^\s*(?:- +)*(?:[^\s:\"'#]+\s*:\s+)?(?:\[ *)?(\{[{%#])")
_COMMENT = re.compile(r"[ \t]*(#)")
_PLAIN_TAB = re.compile(r"^ *\t")


def parse_yaml(text: str, file: str) -> Node:
    """Read one YAML document. Raises SourceError, with the place, for anything that is not plain YAML.

    `file` is the name that places carry.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    _check_text(text, file)
    loader = None
    try:
        loader = _LOADER(text)
        return _Builder(text, file, loader.get_event).document()
    except yaml.MarkedYAMLError as error:
        raise _explain(error, text, file) from None
    except yaml.YAMLError as error:
        raise SourceError(Location(file=file, line=1, column=1), f"this is not YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_text(text: str, file: str) -> None:
    if len(text) > MAX_SIZE:
        raise SourceError(
            Location(file=file, line=1, column=1),
            f"the file is too large: {len(text):,} characters, {MAX_SIZE:,} are allowed",
        )
    bad = _FORBIDDEN.search(text)
    if bad:
        code = f"U+{ord(bad.group()):04X}"
        raise SourceError(
            Location.at(file, text, bad.start()),
            f"the character {code} is not allowed in YAML",
            f'inside double quotes it can be written as "\\u{ord(bad.group()):04X}"'
            if bad.group() > "\x9f"
            else "remove it",
        )


class _Builder:
    """Builds nodes from events; nothing is kept of a document that passes a limit."""

    def __init__(self, text: str, file: str, next_event: Callable[[], Any]) -> None:
        """`next_event` raises YAMLError."""
        self._text = text
        self._file = file
        self._next = next_event
        self._depth = 0
        self._nodes = 0
        self._expanded = 0
        self._anchors: dict[str, tuple[Node | None, int, int]] = {}
        """Of each anchor: its node (None while it is still open), how many nodes it has, how deep it is."""
        self._deepest = 0
        self._aliases = 0

    def document(self) -> Node:
        """The one document of the file."""
        self._next()  # the stream's start
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise SourceError(Location(file=self._file, line=1, column=1), "the file is empty")
        root = self._node(self._next())
        self._next()  # the document's end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise SourceError(
                self._at(event.start_mark), "a second document begins here", "one file holds one document"
            )
        return root

    def _at(self, mark: Any) -> Location:
        return Location(file=self._file, line=mark.line + 1, column=mark.column + 1)

    def _node(self, event: Any) -> Node:
        where = self._at(event.start_mark)
        self._count(where)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, where)
        if event.tag is not None:
            raise SourceError(where, f"tags such as `{_tag(event.tag)}` are not allowed", "remove it")
        if event.anchor is not None:
            return self._anchored(event, where)
        return self._content(event, where)

    def _content(self, event: Any, where: Location) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where)
        if self._depth >= MAX_DEPTH:
            raise SourceError(where, f"this is nested more than {MAX_DEPTH} deep")
        self._depth += 1
        self._deepest = max(self._deepest, self._depth)
        node = self._mapping(event, where) if isinstance(event, yaml.MappingStartEvent) else self._sequence(where)
        self._depth -= 1
        return node

    def _count(self, where: Location) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SourceError(where, f"the file has more than {MAX_NODES:,} values")

    def _anchored(self, event: Any, where: Location) -> Node:
        name = event.anchor
        before, deepest = self._nodes + self._expanded, self._deepest
        self._anchors[name] = (None, 0, 0)
        self._deepest = self._depth
        node = self._content(event, where)
        size = self._nodes + self._expanded - before + 1
        self._anchors[name] = (node, size, self._deepest - self._depth)
        self._deepest = max(deepest, self._deepest)
        return node

    def _alias(self, event: Any, where: Location) -> Node:
        if event.anchor not in self._anchors:
            raise SourceError(
                where,
                f"`*{event.anchor}` names an anchor that does not exist",
                f"text that begins with * must be quoted, else write `&{event.anchor}` before the value it repeats",
            )
        node, size, depth = self._anchors[event.anchor]
        if node is None:
            raise SourceError(where, f"`*{event.anchor}` stands inside the value that it repeats")
        self._aliases += 1
        self._expanded += size
        self._deepest = max(self._deepest, self._depth + depth)
        if self._aliases > MAX_ALIASES or self._expanded > MAX_EXPANDED:
            raise SourceError(where, "the aliases of this file stand for too much", "write the values out")
        if self._deepest > MAX_DEPTH:
            raise SourceError(where, f"this is nested more than {MAX_DEPTH} deep")
        return node

    def _sequence(self, where: Location) -> Sequence:
        items = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event))
        return Sequence(where=where, items=tuple(items))

    def _mapping(self, start: Any, where: Location) -> Mapping:
        if _opens_template(start, self._text):
            raise _unquoted_template(where)
        entries: dict[str, Entry] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            entry = self._entry(event)
            if entry.key in entries:
                first = entries[entry.key].where.line
                raise SourceError(
                    entry.where, f"the key `{entry.key}` is here a second time; the first is in line {first}"
                )
            entries[entry.key] = entry
        return Mapping(where=where, entries=tuple(entries.values()))

    def _entry(self, event: Any) -> Entry:
        where = self._at(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent):
            if _opens_template(event, self._text):
                raise _unquoted_template(where)
            raise SourceError(where, "a key must be text", "text that begins with [, {, * or & must be quoted")
        if event.tag is not None or event.anchor is not None:
            raise SourceError(where, "a key can have neither a tag nor an anchor", "remove it")
        if event.value == "<<" and event.style == "":
            raise SourceError(
                where,
                "merge keys (`<<`) are not part of YAML 1.2",
                "write the keys out, or put what all LLM steps share under `defaults`",
            )
        self._count(where)
        return Entry(key=event.value, where=where, value=self._node(self._next()))

    def _scalar(self, event: Any, where: Location) -> Scalar:
        start, style = event.start_mark.index, event.style or ""
        bad = _FORBIDDEN_IN_VALUE.search(event.value) if style == '"' else None  # only there it can be written
        if bad:
            raise SourceError(where, f"this text contains the character U+{ord(bad.group()):04X}, which is not allowed")
        if event.anchor is not None:
            start += len(event.anchor) + 1
        return Scalar(
            where=where,
            text=event.value,
            style=style,
            source=self._text,
            start=start,
            comment=self._comment(event) if style == "" and event.value else None,
        )

    def _comment(self, event: Any) -> Location | None:
        end = event.end_mark
        found = _COMMENT.match(self._text, end.index)
        if found is None:
            return None
        return Location(file=self._file, line=end.line + 1, column=end.column + 1 + found.start(1) - end.index)


def _opens_template(event: Any, text: str) -> bool:
    mark: Any = event.start_mark
    return isinstance(event, yaml.MappingStartEvent) and text.startswith(("{{", "{%", "{#"), mark.index)


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _unquoted_template(where: Location) -> SourceError:
    return SourceError(
        where,
        "a value that begins with {{ must be quoted",
        'YAML reads an unquoted { as the start of a mapping; write "{{ … }}"',
    )


_MEANINGS = (
    ("mapping values are not allowed", "there is a second `: ` in this value", "quote the text: 'a: b', or check the indentation of this line"),
    ("sequence entries are not allowed", "a list cannot begin here", "put it on a line of its own, or quote the text"),
    ("character '\\t' that cannot start", "a tab is used as indentation", "use spaces"),
    ("tab character that violates", "a tab is used as indentation", "use spaces"),
    ("cannot start any token", "a text cannot begin with this character", "quote the text"),
    ("unexpected end of stream", "the quotation that begins here is never closed", ""),
    ("expected ',' or '}'", "the mapping that begins here is never closed, or a comma is missing", "close it with }"),
    ("expected ',' or ']'", "the list that begins here is never closed, or a comma is missing", "close it with ]"),
    ("could not find expected ':'", "a key without `:`", "write `key: value`"),
    ("expected key", "the indentation of this line fits nothing above it, or a value goes on where it has ended", "check indentation and quotes"),
    ("expected <block end>", "the indentation of this line fits nothing above it, or a value goes on where it has ended", "check indentation and quotes"),
    ("expected '-' indicator", "the indentation of this line fits nothing above it", "check the indentation"),
    ("unknown escape character", "this escape is unknown", "in double quotes, write \\\\ for a backslash"),
    ("invalid Unicode character escape", "this escape is not a character", ""),
    ("expected alphabetic or numeric", "a text cannot begin with * or &", "quote the text"),
    ("expected node content", "a value is missing here", "write it, or quote the text"),
    ("maximum nesting depth", f"this is nested more than {MAX_DEPTH} deep", ""),
    ("undefined alias", "this alias names an anchor that does not exist", "text that begins with * must be quoted"),
)  # fmt: skip
_AT_CONTEXT = (
    "unexpected end of stream",
    "expected ',' or '}'",
    "expected ',' or ']'",
    "expected ':'",
    "expected alphabetic or numeric",
)


def _explain(error: yaml.MarkedYAMLError, text: str, file: str) -> SourceError:
    """PyYAML's message in plain words, at the place that is to be changed."""
    problem = str(error.problem or error.context or "")
    lines = text.split("\n")
    line, column = _fault(error, problem, lines)
    opened = error.context_mark.line if error.context_mark and "flow mapping" in str(error.context) else line
    for candidate in (line, opened):
        template = _TEMPLATE_AS_VALUE.search(lines[candidate])
        if template:
            return _unquoted_template(Location(file=file, line=candidate + 1, column=template.start(1) + 1))
    tab = _PLAIN_TAB.match(lines[line])
    if tab:
        where = Location(file=file, line=line + 1, column=tab.end())
        return SourceError(where, "a tab is used as indentation", "use spaces")
    where = Location(file=file, line=line + 1, column=column + 1)
    for part, message, hint in _MEANINGS:
        if part in problem:
            return SourceError(where, message, hint)
    return SourceError(where, f"this is not YAML: {problem}")


def _fault(error: yaml.MarkedYAMLError, problem: str, lines: list[str]) -> tuple[int, int]:
    """Line and column, from 0, of what is to be changed; for what was never closed, of its beginning."""
    mark: Any = error.problem_mark or error.context_mark
    if error.context_mark is not None and any(part in problem for part in _AT_CONTEXT):
        mark = error.context_mark
    if mark is None:
        return 0, 0
    if mark.line >= len(lines):  # libyaml counts a line more at the end of a file without a line end
        return len(lines) - 1, len(lines[-1])
    return mark.line, mark.column
