"""HTML that is put together from pieces: whatever is not `Markup` is text, and escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import TypeAlias

from flowllm.reporting.text import visible

VOID = frozenset({"br", "hr", "meta"})


class Markup(str):
    """HTML that was made here."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"


def el(tag: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` is `class`, `data_x` is `data-x`; what is None or False is left out, and True has no value."""
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_escaped(str(value))}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{tag}{written}>" if tag in VOID else f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Markup:
    """Pieces one behind the other."""
    return Markup("".join(map(_piece, children)))


def _piece(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return _escaped(child) if isinstance(child, str) else joined(child)


def _escaped(text: str) -> str:
    """Harmless, also where it turns the direction of writing or cannot be encoded."""
    return escape(visible(text))


def document(title: str, *body: Child) -> str:
    """A whole page. Its policy forbids scripts, requests, forms, and any style but its own."""
    static = files("flowllm.ui").joinpath("static")
    sheets = [static.joinpath(name) for name in ("tokens.css", "base.css", "pages/compare.css")]
    sheets.append(files(__package__).joinpath("report.css"))
    style = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=rules),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        Markup(f"<style>{style}</style>"),
    )
    return f'<!doctype html>\n<html lang="en">{head}{el("body", el("main", *body))}</html>\n'
