"""The function that a python step names, and the files beside its own that it imports. Files are parsed, nothing is executed."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Callable, Iterable, Iterator

from flowllm.language.files import Sources, Unreadable, absolute
from flowllm.language.problems import Location, SourceError, nearest
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import PythonBody

_FORM = "write module:function or ./file.py:function"


def python_body(target: str, where: Location, arguments: ValueTemplate | None, sources: Sources) -> PythonBody:
    """The function that a step names. Raises SourceError where its file or the function is not there."""
    place, colon, function = target.rpartition(":")
    if not colon or not place or not function.isidentifier():
        raise SourceError(where, f"`{target}` does not name a function", _FORM)
    if not (place.startswith(("./", "../", "/")) or place.endswith(".py")):
        if not all(part.isidentifier() for part in place.split(".")):
            raise SourceError(where, f"`{place}` is not the name of a module", _FORM)
        return PythonBody(function=function, module=place, arguments=arguments)
    name, text = sources.read_named(place, where)
    _check_defined(function, place, _parse(place, text, where), where)
    helpers = tuple(absolute(helper) for helper in imported_files(name, text, lambda file: _text(file, sources)))
    return PythonBody(function=function, file=absolute(name), helpers=helpers, arguments=arguments)


def _text(file: str, sources: Sources) -> str | None:
    try:
        return sources.read(file)
    except Unreadable:
        return None


def _tree(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _parse(place: str, text: str, where: Location) -> ast.Module:
    try:
        return _tree(text)
    except SyntaxError as error:
        raise SourceError(where, f"{place} is not valid Python: {error.msg} (line {error.lineno})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(where, f"{place} is not valid Python: {error or 'it is nested too deep'}") from None


def _check_defined(function: str, place: str, module: ast.Module, where: Location) -> None:
    defined = list(_names(module.body))
    if function in defined or "*" in defined:
        return
    raise SourceError(
        where,
        f"{place} does not define `{function}`",
        nearest(function, (name for name in defined if not name.startswith("_"))) or "it defines no function",
    )


def _names(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that a module's top level binds: definitions, assignments and imports, under `if` and `try` too."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id
        elif isinstance(statement, ast.If | ast.With):
            yield from _names([*statement.body, *getattr(statement, "orelse", [])])
        elif isinstance(statement, ast.Try):
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            yield from _names([*statement.body, *handlers, *statement.orelse, *statement.finalbody])


# the files that a file imports

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
        tree = _tree(text)
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
