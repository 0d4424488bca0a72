"""`foreach` of a step, with what belongs to it: where its items come from, their name, and when it has enough."""

from __future__ import annotations

from pathlib import PurePath

from flowllm.core.types import OnError
from flowllm.language.compiling import Compiler
from flowllm.language.files import absolute
from flowllm.language.keys import read_keys
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence, kind_of
from flowllm.language.problems import Location, SourceError
from flowllm.language.step_keys import DataFileKeys, DataFilesKeys, FlowKeys
from flowllm.language.template import RESERVED_IDS, ValueTemplate
from flowllm.language.values import NAME, is_template
from flowllm.language.workflow import Accept, DataFile, Foreach

ITEM = "item"
_NAMES_OF_ITEMS = frozenset({ITEM, "row"})
"""Reserved words that mean an item."""
_BELONGS = ("as", "accept", "max_failed", "max_concurrent")
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "lines"}
"""Formats of data sets by the endings of their names."""
_LIST_HINT = (
    'write an expression such as "{{ inputs.topics }}", a list, {file: rows.jsonl}, {files: docs/**/*.md} or '
    "{matrix: {name: list}}"
)


def item_names(keys: FlowKeys, compiler: Compiler) -> tuple[str, ...]:
    """The names that the step's templates know besides the usual ones. Adds problems."""
    if keys.foreach is None:
        return ()
    return (_item_name(keys.as_, compiler), "index")


def _item_name(name: Scalar | None, compiler: Compiler) -> str:
    if name is None:
        return ITEM
    error = ""
    if not NAME.fullmatch(name.text):
        error = f"`{name.text}` cannot be a name"
    elif name.text in compiler.names.steps:
        error = f"`{name.text}` is the id of a step and cannot be used for anything else"
    elif name.text in RESERVED_IDS and name.text not in _NAMES_OF_ITEMS:
        error = f"`{name.text}` is reserved and cannot be the name of an item"
    if error:
        compiler.problems.add(name.where, error, "choose another name", step=compiler.step)
        return ITEM
    return name.text


def foreach_of(keys: FlowKeys, node: Mapping, compiler: Compiler) -> Foreach | None:
    """The foreach of a step, None without. Adds problems; then the result may be None too.

    `compiler` knows no names of items yet.
    """
    if keys.foreach is None:
        for key in _BELONGS:
            if keys.values[key] is not None:
                where = node.keys().get(key, node.where)
                compiler.problems.add(
                    where,
                    f"`{key}` belongs to `foreach`, and this step has none",
                    "add `foreach`, or remove it",
                    step=compiler.step,
                )
        return None
    if keys.max_failed is not None and keys.values.get("on_error") is not OnError.CONTINUE:
        compiler.problems.add(
            node.keys().get("max_failed", node.where),
            "`max_failed` needs `on_error: continue`: without it one failed item fails the step",
            "add `on_error: continue`",
            step=compiler.step,
        )
    name = _item_name(keys.as_, compiler) if keys.as_ is not None else ITEM
    try:
        items, file, matrix = _source(keys.foreach, compiler)
    except SourceError as error:
        compiler.problems.add_error(error, step=compiler.step)
        return None
    accept = _accept(keys, name, compiler)
    share = keys.max_failed if isinstance(keys.max_failed, float) else None
    return Foreach(
        items=items,
        file=file,
        matrix=matrix,
        name=name,
        max_concurrent=keys.max_concurrent,
        max_failed=None if share is not None else keys.max_failed,  # type: ignore[arg-type]
        max_failed_share=share,
        accept=accept,
    )


def _source(
    node: Node, compiler: Compiler
) -> tuple[ValueTemplate | None, DataFile | None, dict[str, ValueTemplate | DataFile] | None]:
    if not isinstance(node, Mapping):
        return _items(node, compiler), None, None
    if node.get("file") is not None or node.get("files") is not None:
        return None, _file(node, compiler), None
    inner = node.get("matrix")
    if inner is None or len(node.entries) != 1:
        raise SourceError(
            node.where, "`foreach` is neither a list, nor {file: …}, {files: …} or {matrix: …}", _LIST_HINT
        )
    return None, None, _matrix(inner, compiler)


def _items(node: Node, compiler: Compiler) -> ValueTemplate:
    if not isinstance(node, Scalar):
        return compiler.value(node)
    with compiler.streaming():
        return _expression(node, compiler)


def _expression(node: Scalar, compiler: Compiler) -> ValueTemplate:
    """The one expression that a text must be, to give a list. Raises SourceError."""
    template = compiler.text(node)
    if template is not None and not template.is_expression:
        raise SourceError(node.where, f"{_shown(node)} is not a list of items", _LIST_HINT)
    return ValueTemplate.of(template)


def _shown(node: Scalar) -> str:
    return f"`{node.text}`" if node.text else kind_of(node)


def _file(node: Mapping, compiler: Compiler) -> DataFile | None:
    if node.get("files") is not None:
        return _files(node, compiler)
    keys = read_keys(DataFileKeys, node, "`foreach`", compiler.problems, step=compiler.step)
    path = None if keys is None else compiler.text(keys.file)
    if keys is None or path is None:
        return None
    _check_format(keys, node, compiler)
    return DataFile(
        path=path, folder=folder_of(keys.file.where), format=keys.format, delimiter=keys.delimiter, limit=keys.limit
    )


def _files(node: Mapping, compiler: Compiler) -> DataFile | None:
    keys = read_keys(DataFilesKeys, node, "`foreach`", compiler.problems, step=compiler.step)
    path = None if keys is None else compiler.text(keys.files)
    if keys is None or path is None:
        return None
    return DataFile(path=path, folder=folder_of(keys.files.where), limit=keys.limit, many=True)


def _check_format(keys: DataFileKeys, node: Mapping, compiler: Compiler) -> None:
    """Add a problem where the format cannot be known, or has no delimiter."""
    name = keys.file.text
    if name == "-" or is_template(name):
        chosen = keys.format
    else:
        chosen = keys.format or ENDINGS.get(PurePath(name.lower().removesuffix(".gz")).suffix)
        if chosen is None:
            compiler.problems.add(
                keys.file.where,
                f"the ending of {name} does not say what it is",
                "write `format: jsonl`, json, csv or lines; what is no text is saved as one of these first",
                step=compiler.step,
            )
    if keys.delimiter is not None and chosen not in {None, "csv"}:
        compiler.problems.add(node.keys()["delimiter"], "`delimiter` is for CSV alone", "remove it", step=compiler.step)


def _matrix(node: Node, compiler: Compiler) -> dict[str, ValueTemplate | DataFile]:
    if not isinstance(node, Mapping) or not node.entries:
        what = "empty" if isinstance(node, Mapping) else kind_of(node)
        raise SourceError(node.where, f"`matrix` is a mapping of names to lists, this is {what}", _LIST_HINT)
    axes: dict[str, ValueTemplate | DataFile] = {}
    for entry in node.entries:
        if not NAME.fullmatch(entry.key):
            raise SourceError(entry.where, f"`{entry.key}` cannot be a name", "use a-z, 0-9 and _, not a digit first")
        if isinstance(entry.value, Mapping):
            source: ValueTemplate | DataFile | None = _file(entry.value, compiler)
        elif isinstance(entry.value, Sequence):
            source = compiler.value(entry.value)
        else:
            source = _expression(entry.value, compiler)
        if source is not None:
            axes[entry.key] = source
    return axes


def _accept(keys: FlowKeys, name: str, compiler: Compiler) -> Accept | None:
    if keys.accept is None:
        return None
    inner = compiler.within(name, "index", "output", "accepted")
    when = inner.text(keys.accept.when, condition=True)
    count = compiler.value(keys.accept.count)
    if when is None:
        return None
    return Accept(when=when, count=count, overshoot=float(keys.accept.overshoot))


def folder_of(where: Location) -> str:
    """The folder of the file in which something stands."""
    return str(PurePath(absolute(where.file)).parent)
