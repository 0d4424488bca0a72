"""The parts of the documentation that are made from the program, so that they cannot drift from it.

Between `<!-- made: NAME -->` and `<!-- end -->` stands what `BLOCKS[NAME]` gives. The tests compare;

    python -m tests.support.documentation

writes it anew.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

import flowllm
import flowllm.steps  # registers the kinds
from flowllm.cli.main import COMMANDS, cli
from flowllm.language import file_keys, step_values, values
from flowllm.language.keys import Key, Keys
from flowllm.language.kinds import kinds
from flowllm.language.nodes import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN
from flowllm.language.sandbox import SANDBOX
from flowllm.language.sandbox_filters import FUNCTIONS
from flowllm.language.sandbox_methods import methods_of
from flowllm.language.schema import default_as_written
from flowllm.language.template import RESERVED_IDS
from flowllm.language.template_paths import RECORD_FIELDS, RUN_FIELDS
from flowllm.storage.sql.tables import metadata, versions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(<!-- made: (?P<name>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

# --- the language ---------------------------------------------------------------------------------------


def tables() -> list[type[Keys]]:
    """Every table of keys that flowllm has."""
    found, waiting = [], [Keys]
    while waiting:
        table = waiting.pop()
        waiting += table.__subclasses__()
        found += [table] if table.title and table.__module__.startswith("flowllm.") else []
    return found


def _table(title: str) -> type[Keys]:
    return next(table for table in tables() if table.title == title)


_KINDS: dict[str, type[Keys]] = {key: spec.keys for key, spec in kinds().items()}
_STEP, _LLM = file_keys.StepKeys, file_keys.LlmKeys
TABLES: dict[str, tuple[type[Keys], tuple[type[Keys], ...]]] = {
    "workflow": (file_keys.WorkflowKeys, ()),
    "project": (file_keys.ProjectKeys, ()),
    "input": (file_keys.InputKeys, ()),
    "every step": (_STEP, (file_keys.ForeachKeys,)),
    "LLM steps": (_LLM, (file_keys.CommonKeys,)),
    "defaults": (file_keys.DefaultsKeys, (_LLM,)),
    "prompt": (_KINDS["prompt"], (_STEP, _LLM)),
    "messages": (_KINDS["messages"], (_STEP, _LLM)),
    "embed": (_KINDS["embed"], (_STEP,)),
    "batch": (_table("batch"), ()),
    "python": (_KINDS["python"], (_STEP,)),
    "resources": (_table("resources"), ()),
    "shell": (_KINDS["shell"], (_STEP,)),
    "http": (_KINDS["http"], (_STEP,)),
    "request": (_table("HTTP request"), ()),
    "workflow step": (_KINDS["workflow"], (_STEP,)),
    "value": (_KINDS["value"], (_STEP,)),
    "foreach": (file_keys.ForeachKeys, ()),
    "data set": (file_keys.DataFileKeys, ()),
    "files": (file_keys.DataFilesKeys, ()),
    "accept": (file_keys.AcceptKeys, ()),
    "retry": (file_keys.RetryKeys, ()),
    "enforce": (file_keys.EnforceKeys, ()),
    "models": (file_keys.ModelLimitsKeys, (file_keys.EnforceKeys,)),
    "window": (file_keys.WindowKeys, ()),
    "limits": (file_keys.LimitsKeys, (file_keys.ModelLimitsKeys,)),
    "budget": (file_keys.BudgetKeys, ()),
    "provider openai": (file_keys.OpenAIKeys, ()),
    "provider simulated": (file_keys.SimulatedKeys, ()),
}
"""Name of a table: whose keys it lists, less those of others."""


def key_table(name: str) -> str:
    """The keys of a table: what each may be, its default, what it means."""
    table, less = TABLES[name]
    hidden = {key for other in less for key in other.table}
    rows = (
        f"| `{key.name}` | {_value(key.value.schema)} | {_default(key)} | {_cell(key.text)} |"
        for key in table.table.values()
        if key.name not in hidden
    )
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return re.sub(r"(?<![`$])(\$?\{[^}]*\}\}?)", r"`\1`", text.replace("|", "\\|"))


def _default(key: Key[Any]) -> str:
    if key.required:
        return "required"
    if key.default in (None, "", (), {}):
        return ""
    default = default_as_written(key)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


_PATTERNS = {
    DURATION_PATTERN: "duration",
    SHARE_PATTERN: "share",
    SIZE_PATTERN: "size",
    r"\{[{%#]": "template",
    "^[a-z_][a-z0-9_]*$": "name",
    "^[A-Za-z_][A-Za-z0-9_]*$": "environment variable",
    "^https?://": "address",
}
_NAMES = {
    "limits": "[limits](#limits)",
    "limits of a model": "[limits](#limits)",
    "limits of a simulated server": "[limits](#limits)",
    "window": "`{requests, per}`",
    "budget": "[budget](#budget)",
    "retry": "[retry](#retry)",
    "defaults": "[options](#options-of-llm-steps)",
    "provider (openai)": "[provider](#providers)",
    "accept": "[accept](#accept-end-when-there-is-enough)",
    "batch": "[batch](#embed-vectors-of-texts)",
    "resources": "[resources](#resources)",
    "HTTP request": "[request](#http-send-a-request)",
}
_WHOLE = (
    (values.INPUT, "[input](#inputs)"),
    (file_keys.WorkflowKeys.steps.value.schema, "mapping of names to [step](#steps)"),
)


def _value(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in a few words."""
    return next((words for known, words in _WHOLE if schema == known), "") or _described(schema)


def _described(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return _any_of(schema["anyOf"])
    if "$ref" in schema:
        return _NAMES.get(schema["$ref"].title, "")
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "string" in kinds:
        text = _PATTERNS.get(schema.get("pattern", ""), "text")
        return " or ".join([text, *(_WORDS[kind] for kind in kinds if kind in ("array", "object"))])
    return " or ".join(_one(kind, schema) for kind in kinds if kind != "null") or "anything"


def _any_of(options: Sequence[Mapping[str, Any]]) -> str:
    if step_values.DATA_FILE in options:
        return "template or list or [data set](#data-sets) or matrix"
    words = [_value(option) for option in options if option != {"type": "null"}]
    return " or ".join(dict.fromkeys(word for word in words if word))


_WORDS = {"array": "list", "object": "mapping", "boolean": "`true` or `false`"}


def _one(kind: str, schema: Mapping[str, Any]) -> str:
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_bounds(schema)}"
    if kind == "array" and "items" in schema:
        return f"list of {_several(schema['items'])}"
    if kind == "object" and schema.get("additionalProperties") is False:
        inner = (f"{key}: {_value(value)}" for key, value in schema["properties"].items())
        return f"`{{{', '.join(inner)}}}`"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping of names to {_value(schema['additionalProperties'])}"
    return _WORDS[kind]


def _several(schema: Mapping[str, Any]) -> str:
    if {"type": "object", "required": ["role"]} in schema.get("anyOf", ()):
        return "messages"
    words = _value(schema)
    return f"{words}s" if words.replace(" ", "").isalpha() else words


def _bounds(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    found = f" above {above}" if above is not None else "" if least is None else f" from {least}"
    return found + ("" if most is None else f" to {most}")


def _listed(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def _record() -> str:
    lines = []
    for name, below in RECORD_FIELDS.items():
        lines.append(f"- `.{name}`" + (f": {', '.join(f'`.{one}`' for one in below)}" if below else ""))
    return "\n".join(lines)


def _methods() -> str:
    samples: list[tuple[str, object]] = [("text", ""), ("list", []), ("mapping", {}), ("number", 0.5)]
    return "\n".join(f"- {name}: {_listed(sorted(methods_of(value)))}" for name, value in samples)


# --- the command line -----------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that is not hidden, with its full name."""
    waiting: list[tuple[str, click.Command]] = [("", cli)]
    while waiting:
        name, command = waiting.pop(0)
        if name:
            yield name, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            inner = [(one, command.get_command(context, one)) for one in command.list_commands(context)]
            waiting += [(f"{name} {one}".strip(), found) for one, found in inner if found is not None]


def options_of(command: click.Command) -> list[click.Option]:
    """The options that `--help` lists, and that are not on every command."""
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return [one for one in options if not set(one.opts) & {"--db", "--config", "--debug", "--help"}]


def command_block(name: str) -> str:
    """What a command does, and its options."""
    command = dict(commands())[name]
    context = click.Context(command, info_name=f"flowllm {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    text = re.sub(r"\n  .*", "", inspect.cleandoc(command.help or "")).replace("\b", "").strip()
    lines = ["```text", f"flowllm {name} {usage}", "```", "", re.sub(r"(?<!\n)\n(?!\n)", " ", text)]
    options = options_of(command)
    if options:
        lines += ["", "| option | meaning |", "|---|---|"]
        lines += [_option_row(one, context) for one in options]
    return "\n".join(lines)


def _option_row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None
    written, text = record
    text = re.sub(r"(\[|; )x>=1(?=\])", r"\1", text).replace(" []", "").replace("; ]", "]")
    return f"| `{written.replace('|', chr(92) + '|')}` | {re.sub(' +', ' ', text).replace('[]', '').strip()} |"


def _command_list() -> str:
    rows = [f"| `flowllm {name}` | {text} |" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["| command | does |", "|---|---|", *rows])


BLOCKS: dict[str, Callable[[], str]] = {
    **{f"keys of {name}": partial(key_table, name) for name in TABLES},
    "reserved ids": lambda: _listed(sorted(RESERVED_IDS)),
    "filters": lambda: _listed(sorted(filter(str.isidentifier, SANDBOX.filters))),
    "tests": lambda: _listed(sorted(filter(str.isidentifier, SANDBOX.tests))),
    "functions": lambda: _listed(sorted(FUNCTIONS)),
    "methods": _methods,
    "record": _record,
    "run fields": lambda: _listed(f"run.{field}" for field in RUN_FIELDS),
    "commands": _command_list,
    "public names": lambda: _listed(flowllm.__all__),
    **{f"command {name}": partial(command_block, name) for name, _ in commands()},
}


def renewed(text: str) -> str:
    """A page with everything in it that is made from the program as it is made now."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found['name']]()}\n\n{found[3]}", text)


def made_in(text: str) -> list[str]:
    """The names of the made blocks of a page."""
    return [found["name"] for found in _BLOCK.finditer(text)]


SCHEMA = ROOT / "flowllm" / "storage" / "sqlite" / "schema.sql"
"""What makes a new database."""


def schema_text() -> str:
    """The statements that make all tables, as SQLAlchemy writes them."""
    every: list[DDLElement] = []
    for table in (*metadata.sorted_tables, versions):
        every += [
            CreateTable(table),
            *(CreateIndex(index) for index in sorted(table.indexes, key=lambda one: one.name)),
        ]
    written = (str(one.compile(dialect=dialect())).replace("\t", "  ") for one in every)
    return ";\n".join("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in written) + ";\n"


def main() -> None:
    """Write all pages anew, and the text of the schema."""
    if SCHEMA.read_text(encoding="utf-8") != schema_text():
        SCHEMA.write_text(schema_text(), encoding="utf-8")
        print(f"wrote {SCHEMA}")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if renewed(text) != text:
            page.write_text(renewed(text), encoding="utf-8")
            print(f"wrote {page}")


if __name__ == "__main__":
    main()
