"""One step: its keys, over the defaults, and its `foreach`, to a checked Step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import Any, Final

from flowllm.core.types import CachePolicy, OnError, Priority, StepId, StepKind, Tolerance
from flowllm.language.advice import advise
from flowllm.language.compiling import Compiler
from flowllm.language.file_keys import CommonKeys, DataFileKeys, DataFilesKeys, FlowKeys, retry_policy
from flowllm.language.files import folder_of
from flowllm.language.foreign import kind_meant
from flowllm.language.keys import read_keys, unknown_key
from flowllm.language.kinds import StepContext, StepKindSpec, StepScope, all_keys, kinds
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, Sequence, kind_of
from flowllm.language.problems import Problems, SourceError, listing, nearest
from flowllm.language.project import merged
from flowllm.language.template import RESERVED_IDS, ValueTemplate
from flowllm.language.values import NAME, is_template, shown
from flowllm.language.workflow import Accept, Body, DataFile, Foreach, Step, ValueBody, WorkflowBody

_WITH_SECRETS = ("with", "env")


def kind_key(entry: Entry) -> str:
    """The one key that says what a step does. Raises SourceError if there is not exactly one."""
    if not isinstance(entry.value, Mapping):
        raise SourceError(
            entry.value.where, f"a step is a mapping, this is {kind_of(entry.value)}", "write `prompt: …`"
        )
    keys, known = entry.value.keys(), kinds()
    found = [key for key in keys if key in known]
    if len(found) > 1:
        raise SourceError(
            keys[found[1]], f"a step does one thing, this one has {listing(found)}", "make two steps of it"
        )
    if not found:
        for key in keys:
            near = nearest(key, known)
            hint = "" if key in all_keys() else near if near.startswith("did") else kind_meant(key)
            if hint:
                raise SourceError(keys[key], f"unknown key `{key}` in the step `{entry.key}`", hint)
        raise SourceError(
            entry.where, f"the step `{entry.key}` does nothing: it has none of {listing(known)}", "add one"
        )
    return found[0]


def parse_step(entry: Entry, scope: StepScope) -> Step | None:
    """A checked step. Adds problems; then the result may be None."""
    if not NAME.fullmatch(entry.key):
        message = f"`{entry.key}` cannot be the id of a step"
        scope.problems.add(entry.where, message, "use a-z, 0-9 and _, not a digit first")
    elif entry.key in RESERVED_IDS:
        message = f"`{entry.key}` is reserved and cannot be the id of a step"
        scope.problems.add(entry.where, message, "choose another id")
    try:
        spec = kinds()[kind_key(entry)]
        node = _known_keys(entry, spec, scope.problems)
        node = merged(scope.inherited.defaults_for(spec.defaults), node)
        return _step(entry, spec, node, scope)
    except SourceError as error:
        scope.problems.add_error(error, step=entry.key)
        return None


def _known_keys(entry: Entry, spec: StepKindSpec[Any], problems: Problems) -> Mapping:
    """The step without the keys that do not belong to its kind; each of those is a problem."""
    kept = []
    for inner in entry.value.entries if isinstance(entry.value, Mapping) else ():
        if inner.key in spec.keys.table:
            kept.append(inner)
        elif inner.key in all_keys():
            of_graph = spec.kind is StepKind.WORKFLOW and inner.key in CommonKeys.table
            message = f"`{inner.key}` does not apply to a `{spec.key}` step"
            hint = "its steps have their own" if of_graph else "remove it"
            problems.add(inner.where, message, hint, step=entry.key)
        else:
            what = f"the step `{entry.key}`"
            error = unknown_key(inner.key, inner.where, what, spec.keys.table, "step")
            problems.add_error(error, step=entry.key)
    return Mapping(where=entry.where, entries=tuple(kept))


def _step(entry: Entry, spec: StepKindSpec[Any], node: Mapping, scope: StepScope) -> Step | None:
    problems = scope.problems
    keys = read_keys(spec.keys, node, f"the step `{entry.key}`", problems, step=entry.key)
    if keys is None:
        _compile_all(entry, spec, node, scope)
        return None
    assert isinstance(keys, FlowKeys)  # noqa: S101 - every kind of step has these keys
    outer = Compiler(names=scope.names, sources=scope.sources, step=entry.key)
    scope.templates[entry.key] = outer.templates
    before = len(problems)
    foreach = foreach_of(keys, node, outer)
    compiler = outer.within(*item_names(keys, outer))
    when = None if keys.when is None else compiler.text(keys.when, condition=True)
    save = None if keys.save is None else compiler.within("output").text(keys.save)
    context = StepContext(id=entry.key, where=entry.where, node=node, compiler=compiler, scope=scope)
    body: Body | None = None
    try:
        body = spec.build(keys, context)
    except SourceError as error:
        context.add(error)
    edges = _edges(entry.key, keys.needs, compiler)
    scope.waits[entry.key] = (entry.where, [str(step) for step in edges])
    if body is None or (keys.foreach is not None and foreach is None) or len(problems) > before:
        return None
    _check_hedge(entry, node, body, scope)
    given = keys.values
    step = Step(
        id=StepId(entry.key),
        kind=spec.kind,
        body=body,
        where=entry.where,
        edges=edges,
        uses=compiler.uses(),
        when=when,
        retry=retry_policy(given.get("retry"), harmless=body.harmless),
        timeout=given.get("timeout") or 1800.0,
        cache=given.get("cache") or _CACHE[spec.cached],
        priority=given.get("priority") or Priority.NORMAL,
        on_error=given.get("on_error") or OnError.FAIL,
        foreach=foreach,
        save=save,
    )
    advise(step, scope.sources, outermost=scope.inherited.depth == 0)
    return step


_CACHE: Final = {cached: CachePolicy(enabled=cached) for cached in (True, False)}


def _check_hedge(entry: Entry, node: Mapping, body: Body, scope: StepScope) -> None:
    """What has effects may not be done twice; where the defaults say so, that is for other steps. Whether there are slots for
    a second attempt is checked once the limits are known."""
    hedge = _hedge_of(node if body.harmless else entry.value)
    if hedge is None or (isinstance(hedge.value, Scalar) and hedge.value.text == "off"):
        return
    if body.harmless:
        scope.hedged.append((hedge.where, entry.key, body))
    elif not (isinstance(hedge.value, Scalar) and hedge.value.text == "auto"):
        what = "may have effects, and would have them twice: it is never sent once more"
        if isinstance(body, ValueBody | WorkflowBody):
            what = "sends nothing itself that could be sent once more"
        message = f"the step `{entry.key}` {what}"
        scope.problems.add(hedge.where, message, "take `hedge` away; models and GET requests have it", step=entry.key)


def _hedge_of(step: Node) -> Entry | None:
    retry = step.entry("retry") if isinstance(step, Mapping) else None
    return retry.value.entry("hedge") if retry is not None and isinstance(retry.value, Mapping) else None


def _compile_all(entry: Entry, spec: StepKindSpec[Any], node: Mapping, scope: StepScope) -> None:
    """Look for problems in the templates of a step that has other problems already."""
    local = ("item", "index") if node.get("foreach") is not None else ()
    name = node.get("as")
    if isinstance(name, Scalar):
        local = (*local, name.text)
    names = replace(scope.names, local=scope.names.local | set(local))
    compiler = Compiler(names=names, sources=scope.sources, step=entry.key)
    for inner in node.entries:
        if inner.key in spec.templates:
            compiler.value(inner.value, secrets=inner.key in _WITH_SECRETS)
    scope.waits[entry.key] = (entry.where, [str(step) for step in compiler.edges()])


def _edges(step: str, needs: tuple[Scalar, ...], compiler: Compiler) -> dict[StepId, Tolerance]:
    """What the step waits for: its templates' references, and `needs` where none shows that edge."""
    problems, steps = compiler.problems, compiler.names.steps
    for reference in (*compiler.references, *compiler.streamed):
        if reference.step == step:
            problems.add(reference.where, f"the step `{step}` refers to its own output", step=step)
    edges = compiler.edges()
    edges.pop(StepId(step), None)
    for need in needs:
        if need.text == step:
            problems.add(need.where, f"the step `{step}` needs itself", "remove it", step=step)
        elif need.text not in steps:
            problems.add(need.where, f"there is no step `{need.text}`", nearest(need.text, steps), step=step)
        else:
            edges.setdefault(StepId(need.text), Tolerance.REQUIRED)
    return edges


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
        raise SourceError(node.where, f"{shown(node)} is not a list of items", _LIST_HINT)
    return ValueTemplate.of(template)


def _file(node: Mapping, compiler: Compiler) -> DataFile | None:
    if node.get("files") is not None:
        return _files(node, compiler)
    keys = read_keys(DataFileKeys, node, "`foreach`", compiler.problems, step=compiler.step)
    path = None if keys is None else compiler.text(keys.file)
    if keys is None or path is None:
        return None
    _check_format(keys, node, compiler)
    return DataFile(
        path=path,
        folder=folder_of(keys.file.where.file),
        format=keys.format,
        delimiter=keys.delimiter,
        limit=keys.limit,
    )


def _files(node: Mapping, compiler: Compiler) -> DataFile | None:
    keys = read_keys(DataFilesKeys, node, "`foreach`", compiler.problems, step=compiler.step)
    path = None if keys is None else compiler.text(keys.files)
    if keys is None or path is None:
        return None
    return DataFile(path=path, folder=folder_of(keys.files.where.file), limit=keys.limit, many=True)


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
