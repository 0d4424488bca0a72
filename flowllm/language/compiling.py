"""Nodes to templates, each with its place; remembers what they refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import Json, Part, StepId, Tolerance
from flowllm.language.files import Sources
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.problems import Location, Problems, SourceError
from flowllm.language.template import Names, Template, TemplateProblems, ValueTemplate, compile_template
from flowllm.language.template_paths import Reference


@dataclass(slots=True, kw_only=True)
class Compiler:
    """Compiles the templates of one step, or of one output."""

    names: Names
    sources: Sources
    step: str = ""
    references: list[Reference] = field(default_factory=list)
    streamed: list[Reference] = field(default_factory=list)
    """Those to whole outputs that are gone through, and never held: they are waited for like the others."""
    templates: list[Template] = field(default_factory=list)
    """All that were compiled."""
    _bare: list[Reference] | None = None

    @property
    def problems(self) -> Problems:
        """Where problems are added."""
        return self.sources.problems

    def text(self, scalar: Scalar, *, secrets: bool = False, condition: bool = False) -> Template | None:
        """The template of a text; None, and problems, if it is not one."""
        return self._compile(scalar.text, scalar.where, locator(scalar), secrets=secrets, condition=condition)

    def prompt(self, node: Scalar | Mapping) -> Template | None:
        """The template of a text or of the file that `{file: path}` names."""
        if isinstance(node, Scalar):
            return self.text(node)
        path = node.get("file")
        if not isinstance(path, Scalar):
            return None
        try:
            name, content = self.sources.read_named(path.text, path.where)
        except SourceError as error:
            self.problems.add_error(error, step=self.step)
            return None
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        if not content.strip():
            self.problems.add(path.where, f"the file {path.text} is empty", step=self.step)
        return self._compile(content, Location.at(name, content, 0), partial(Location.at, name, content))

    def value(self, node: Node, *, secrets: bool = False) -> ValueTemplate:
        """A value with templates at its texts."""
        return ValueTemplate.of(self.tree(node, secrets=secrets))

    def optional(self, node: Node | None, *, secrets: bool = False) -> ValueTemplate | None:
        """The same for what may be left out."""
        return None if node is None else self.value(node, secrets=secrets)

    def as_text(self, scalar: Scalar) -> ValueTemplate:
        """A value that is a text as written, even where it looks like a number."""
        return ValueTemplate.of(self.text(scalar))

    def tree(self, node: Node, *, secrets: bool = False) -> Json:
        """Plain data with templates at its texts, to be put into a larger value."""
        if isinstance(node, Mapping):
            return {entry.key: self.tree(entry.value, secrets=secrets) for entry in node.entries}
        if isinstance(node, Sequence):
            return [self.tree(item, secrets=secrets) for item in node.items]
        return self.text(node, secrets=secrets) if node.is_text else node.value

    def edges(self) -> dict[StepId, Tolerance]:
        """The steps that were referred to; of several references the least tolerant counts."""
        edges: dict[StepId, Tolerance] = {}
        for reference in (*self.references, *self.streamed):
            edges[reference.step] = min(reference.tolerance, edges.get(reference.step, Tolerance.ANY))
        return edges

    def uses(self) -> dict[StepId, frozenset[Part]]:
        """What is looked at of each of them, streams left out."""
        uses: dict[StepId, frozenset[Part]] = {}
        for reference in self.references:
            known = uses.get(reference.step)
            uses[reference.step] = reference.parts if known is None else known | reference.parts
        return uses

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """What is compiled within is gone through where it is exactly one whole output."""
        before = len(self.references)
        self._bare = []
        yield
        bare, self._bare = self._bare, None
        new = self.references[before:]
        del self.references[before:]
        for reference in new:
            (self.streamed if reference in bare else self.references).append(reference)

    def within(self, *local: str) -> Compiler:
        """One for templates of the same step that know these names too."""
        if not local:
            return self
        return replace(self, names=replace(self.names, local=self.names.local | set(local)), _bare=None)

    def _compile(
        self,
        source: str,
        where: Location,
        locate: Callable[[int], Location],
        *,
        secrets: bool = False,
        condition: bool = False,
    ) -> Template | None:
        try:
            template = compile_template(
                source, where=where, names=self.names, locate=locate, allow_secrets=secrets, condition=condition
            )
        except TemplateProblems as found:
            for problem in found.problems:
                self.problems.add_error(problem, step=self.step)
            return None
        self.references.extend(template.references)
        self.templates.append(template)
        if self._bare is not None and template.bare is not None:
            self._bare.extend(template.references)
        return template


def texts_by_name(node: Mapping | None, compiler: Compiler) -> ValueTemplate | None:
    """A mapping of texts as written, in which secrets may stand."""
    if node is None:
        return None
    entries = ((entry.key, entry.value) for entry in node.entries)
    return ValueTemplate.of(
        {key: compiler.text(value, secrets=True) for key, value in entries if isinstance(value, Scalar)}
    )


# from an offset in a text to its place in the file that holds the text

_BLANK = " \t\n"
_ESCAPE_LENGTHS = {"x": 4, "u": 6, "U": 10}


def locator(scalar: Scalar) -> Callable[[int], Location]:
    r"""A function from an offset, from 0, in the scalar's text with `\n` for line ends, to the place in its file.

    Exact for every character that is not white space; folded lines and escapes are followed. A scalar that
    stands in no file has one place.
    """
    return partial(_located, scalar)


def _located(scalar: Scalar, offset: int) -> Location:
    source, where = scalar.source, scalar.where
    if not source:
        return where
    at = _written_at(scalar, min(offset, len(scalar.text)))
    if at < 0:
        offsets = _aligned(scalar)
        at = offsets[min(offset, len(offsets) - 1)]
    line = where.line + source.count("\n", scalar.start, at)
    return Location(file=where.file, line=line, column=at - source.rfind("\n", 0, at))


def _written_at(scalar: Scalar, offset: int) -> int:
    """Where in the file a character stands in a text that is written there as it is, in one line or, as `|` has them, in
    lines with indentation before them; -1 for any other text."""
    source, text = scalar.source, scalar.text
    at = _content_start(scalar)
    if scalar.style != "|":
        changed = "\n" in text or (scalar.style in {"'", '"'} and (scalar.style in text or "\\" in text))
        return -1 if changed or not source.startswith(text, at) else at + offset
    for _ in range(text.count("\n", 0, offset)):
        at = source.find("\n", at) + 1
    begin = text.rfind("\n", 0, offset) + 1
    end = source.find("\n", at)
    line, found = text[begin:].split("\n", 1)[0], source[at : len(source) if end < 0 else end]
    return at + len(found) - len(line) + offset - begin if found.endswith(line) else -1


@lru_cache(maxsize=1)  # the places in one text are asked for in a row
def _aligned(scalar: Scalar) -> list[int]:
    """The offset in the file of each character of the scalar's text, and of its end."""
    source, at = scalar.source, _content_start(scalar)
    offsets: list[int] = []
    for index, char in enumerate(scalar.text):
        at = _seek(source, at, char, scalar.style)
        if not scalar.text.startswith("\r\n", index):
            offsets.append(at)
        at += _width(source, at, char, scalar.style)
    offsets.append(min(at, len(source)))
    return offsets


def _content_start(scalar: Scalar) -> int:
    source, at = scalar.source, scalar.start
    while at < len(source) and source[at] in _BLANK:
        at += 1
    if scalar.style in {"|", ">"}:
        end = source.find("\n", at)
        return len(source) if end < 0 else end + 1
    return at + 1 if scalar.style else at


def _seek(source: str, at: int, char: str, style: str) -> int:
    """Where the character stands: past the indentation and line ends that folding took away."""
    if char in _BLANK and at < len(source) and source[at] == char:
        return at
    while at < len(source):
        if style == '"' and source.startswith("\\\n", at):
            at += 2
        elif source[at] in _BLANK and char not in _BLANK:
            at += 1
        else:
            break
    return min(at, max(0, len(source) - 1))


def _width(source: str, at: int, char: str, style: str) -> int:
    """How many characters of the file stand for one of the text."""
    if style == '"' and source.startswith("\\", at):
        return _ESCAPE_LENGTHS.get(source[at + 1 : at + 2], 2)
    if style == "'" and char == "'":
        return 2
    if char in _BLANK and source[at : at + 1] not in _BLANK:
        return 0
    return 1
