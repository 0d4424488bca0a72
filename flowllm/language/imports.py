"""The files beside a Python file that it imports, and those that they import. Files are parsed, nothing is executed."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Callable, Iterator

MOST = 500
"""Files; what is imported beyond them is not followed."""
_BY_NAME = ("import_module", "__import__")


def imported_files(file: str, text: str, read: Callable[[str], str | None]) -> tuple[str, ...]:
    """The files within the folder of `file` that its code, which is `text`, imports by their names, directly or not, in
    the order in which they are met.

    `read` gives the text of a file, None if there is none; it is called with names that begin as `file` does.
    """
    folder = os.path.dirname(file)  # noqa: PTH120 - text only, as written
    found: dict[str, str] = {file: text}
    missing: set[str] = set()
    waiting: list[tuple[str, tuple[str, ...]]] = [(file, ())]
    while waiting and len(found) <= MOST:
        name, package = waiting.pop(0)
        for module in _modules(found[name], package):
            if not all(part.isidentifier() for part in module):
                continue
            for other, within in _files(folder, module):
                if other in found or other in missing:
                    continue
                content = read(other)
                if content is None:
                    missing.add(other)
                    continue
                found[other] = content
                waiting.append((other, within))
    return tuple(found)[1:]


def _files(folder: str, module: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The files that a module and the packages around it may be in, each with the package in which it stands."""
    for end in range(len(module) + 1):
        path = os.path.join(folder, *module[:end])  # noqa: PTH118 - as it is written
        yield os.path.join(path, "__init__.py"), module[:end]  # noqa: PTH118
        if end:
            yield f"{path}.py", module[: end - 1]


def _modules(text: str, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The names of modules that a text imports, as seen from the folder; some may be names within a module."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1
            if up > len(package):
                continue
            around = package[: len(package) - up] if node.level else ()
            module = (*around, *(node.module or "").split(".")) if node.module else around
            yield module
            yield from ((*module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _is_import(node.func):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield tuple(name.value.lstrip(".").split("."))


def _is_import(function: ast.expr) -> bool:
    named = getattr(function, "attr", None) or getattr(function, "id", None)
    return named in _BY_NAME
