"""Jinja's lexer and code generator with two changes: places are exact, and every access is the sandbox's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.lexer import Lexer

DEFAULT_FILTERS = frozenset({"default", "d"})
DEFINED_TESTS = frozenset({"defined", "undefined"})


class Progress(threading.local):
    """How far this thread's reading of a template came."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        """The offsets, from 1, of all tags and expressions so far."""
        self.reached = 0
        """Characters that were read."""


class OffsetLexer(Lexer):
    """Gives each token its offset for a line number, and remembers where tags began."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.progress = Progress()

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        """Jinja's tokens. White space that it strips lies between them, so that each is found by its text."""
        progress = self.progress
        progress.begins, progress.reached = [], 0
        for _, token, text in super().tokeniter(source, name, filename, state):
            start = source.index(text, progress.reached)
            progress.reached = start + len(text)
            if token in {"variable_begin", "block_begin", "comment_begin", "raw_begin"}:
                progress.begins.append(start + 1)
            yield start + 1, token, text


class TextGenerator(CodeGenerator):
    """Writes Python code in which every access goes through the sandbox's own rules."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lenient: set[int] = set()
        self._called: set[int] = set()

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """`x.b`: a key, or what is called."""
        access = "method" if id(node) in self._called else "key"
        self._access(node, frame, access)
        self.write(f", {node.attr!r}, {node.lineno})")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """`x[b]`: a key or a place, never a method."""
        self._access(node, frame, "item")
        self.write(", ")
        if isinstance(node.arg, nodes.Slice):
            self._slice(node.arg, frame)
        else:
            self.visit(node.arg, frame)
        self.write(f", {node.lineno})")

    def _access(self, node: nodes.Getattr | nodes.Getitem, frame: Frame, access: str) -> None:
        lenient = "maybe_" if id(node) in self._lenient and access != "method" else ""
        self.write(f"environment.{lenient}{access}(")
        self.visit(node.node, frame)

    def _slice(self, node: nodes.Slice, frame: Frame) -> None:
        self.write("slice(")
        for bound in (node.start, node.stop, node.step):
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
            self.write(", ")
        self.write(")")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:  # noqa: N802 - Jinja's name
        """`x.b(…)`: the one place where a method's name means the method."""
        self._called.add(id(node.node))
        super().visit_Call(node, frame, forward_caller=forward_caller)

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """`a.b | default(c.d)`: nothing on the way needs to be there, on either side."""
        if node.name in DEFAULT_FILTERS:
            for side in (node.node, *node.args, *(keyword.value for keyword in node.kwargs)):
                self._forgive(side)
        super().visit_Filter(node, frame)

    def visit_Test(self, node: nodes.Test, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """`a.b is defined`: the same."""
        if node.name in DEFINED_TESTS:
            self._forgive(node.node)
        super().visit_Test(node, frame)

    def _forgive(self, node: nodes.Node | None) -> None:
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            self._lenient.add(id(node))
            node = node.node

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """`a ~ b`: by our rules for text."""
        self.write("environment.tilde((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """A mapping written out; keys are hashed, which is paid for where they are lists."""
        self.write("{")
        for pair in node.items:
            self.write("environment.hashed(")
            self.visit(pair.key, frame)
            self.write("): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Comparisons are the sandbox's own; of `a < b < c` what comes third is not computed where `a < b` is false."""
        self.write("environment.compare(")
        self.visit(node.expr, frame)
        for number, operand in enumerate(node.ops):
            self.write(f", {operand.op!r}, {'lambda: ' if number else ''}")
            self.visit(operand.expr, frame)
        self.write(")")


class ValueGenerator(TextGenerator):
    """Code for a template that is one expression: it yields the very value instead of its text."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        """Nothing stands around the expression."""

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        """Nothing stands around the expression."""
