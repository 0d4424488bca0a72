"""Whether the function that a python step names is there. Files are parsed, nothing is executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator

from flowllm.language.files import Sources, Unreadable, absolute
from flowllm.language.imports import imported_files
from flowllm.language.problems import SourceError, nearest
from flowllm.language.reference import Location
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


def _parse(place: str, text: str, where: Location) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
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
