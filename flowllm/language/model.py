"""The shape of a workflow file and of flowllm.yaml: every key, and what it means.

One class a table of keys. Parsing reads nodes with them; the JSON Schema for editors and the tables of the
language's documentation come from them too. With `model_accounts.py` and `model_steps.py`.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from flowllm.language import fields as f
from flowllm.language.foreign import meant
from flowllm.language.model_accounts import (
    BudgetShape,
    EnforceShape,
    InputShape,
    LimitsShape,
    ModelLimitsShape,
    OpenAIShape,
    RetryShape,
    Shape,
    SimulatedShape,
    WindowShape,
)
from flowllm.language.model_steps import (
    KINDS,
    STEP_SHAPES,
    AcceptShape,
    BatchShape,
    DataFileShape,
    DataFilesShape,
    DefaultsShape,
    EmbedShape,
    HttpRequestShape,
    HttpShape,
    MessagesShape,
    PromptShape,
    PythonShape,
    ShellShape,
    ValueShape,
    WorkflowStepShape,
)
from flowllm.language.nodes import Mapping, Node, Sequence
from flowllm.language.problems import Problems, Wrong, listing, nearest
from flowllm.language.reference import Location

__all__ = [
    "KINDS",
    "STEP_SHAPES",
    "BudgetShape",
    "DataFileShape",
    "DataFilesShape",
    "DefaultsShape",
    "EmbedShape",
    "EnforceShape",
    "HttpShape",
    "InputShape",
    "LimitsShape",
    "MessagesShape",
    "OpenAIShape",
    "PromptShape",
    "PythonShape",
    "RetryShape",
    "Shape",
    "ShellShape",
    "SimulatedShape",
    "ValueShape",
    "WorkflowShape",
    "WorkflowStepShape",
    "key_names",
    "read_shape",
    "unknown_key",
]


class ProjectShape(Shape):
    """flowllm.yaml: what the workflows below its folder share."""

    providers: dict[str, OpenAIShape | SimulatedShape] = Field(default_factory=dict, description="Who can be asked.")
    limits: LimitsShape | None = Field(None, description="Limits of the account that defaults.provider names.")
    defaults: DefaultsShape | None = Field(None, description="Options of every LLM step.")
    database: f.PlainText | None = Field(None, description="Where runs are kept: a database's URL.")
    prices: dict[str, f.Price] = Field(
        default_factory=dict,
        description="Prices by model, US dollars per million tokens: {input, output, cached_input, cache_write}.",
    )
    budget: BudgetShape | None = Field(
        None, description="What each run may spend, with all its resumes; a workflow's keys win."
    )
    tenants: dict[str, f.Rate] = Field(
        default_factory=dict,
        description="Weights by name: who waits gets a share of each account in this proportion (1).",
    )


class WorkflowShape(Shape):
    """A workflow."""

    name: f.PlainText | None = Field(None, description="The workflow's name (that of its file).")
    description: f.AnyText = Field("", description="What it is for.")
    inputs: dict[str, f.InputValue] = Field(
        default_factory=dict,
        description="Inputs: a scalar or a list is a default, nothing is a required text, a mapping declares.",
    )
    secrets: f.Secrets = Field((), description="Environment variables that templates may use as {{ secrets.NAME }}.")
    defaults: DefaultsShape | None = Field(None, description="Options of every LLM step.")
    providers: dict[str, OpenAIShape | SimulatedShape] = Field(default_factory=dict, description="Who can be asked.")
    limits: LimitsShape | None = Field(None, description="Limits of the account that defaults.provider names.")
    budget: BudgetShape | None = Field(None, description="What a run may spend, with all its resumes.")
    steps: dict[
        str,
        PromptShape
        | MessagesShape
        | EmbedShape
        | PythonShape
        | ShellShape
        | HttpShape
        | WorkflowStepShape
        | ValueShape,
    ] = Field(description="What is done, by id; steps start when what they refer to is there.")
    outputs: dict[str, f.Anything] = Field(default_factory=dict, description="What the run gives, by name.")
    keep: f.When | None = Field(
        None,
        description="With --over: one {{ expression }} on outputs, inputs and steps; where it is false the row has no line in "
        "the output.",
    )


S = TypeVar("S", bound=Shape)


def key_names(shape: type[Shape]) -> list[str]:
    """The keys of a table as they are written."""
    return [field.alias or name for name, field in shape.model_fields.items()]


def read_shape(shape: type[S], node: Node, what: str, problems: Problems, *, step: str = "") -> S | None:
    """Read a node by a table of keys. All that is wrong goes to `problems`; then the result is None."""
    try:
        return shape.model_validate(node)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            wrong = detail.get("ctx", {}).get("error")
            if not isinstance(wrong, Wrong):
                wrong = _explain(shape, node, detail, what)
            problems.add_wrong(wrong, step=step)
        return None


def _explain(shape: type[Shape], node: Node, detail: ErrorDetails, what: str) -> Wrong:
    """Of pydantic's own findings only two can happen here: a missing key and one too many."""
    problem, path = detail["type"], [str(part) for part in detail["loc"]]
    where, key = _place(node, path), path[-1]
    table, holder = _table(shape, path[:-1], what)
    if problem == "missing":
        return Wrong(where, f"`{key}` is missing in {holder}")
    if problem != "extra_forbidden":
        return Wrong(where, f"`{'.'.join(path)}` is not right: {problem.replace('_', ' ')}")
    known = key_names(table)
    if table in {EnforceShape, ModelLimitsShape} and key in key_names(LimitsShape):
        return Wrong(where, f"`{key}` does not apply to {holder}", f"there is {listing(known)}")
    wrong = unknown_key(key, where, holder, known, _FOREIGN.get(table, ""))
    if shape is DefaultsShape and key in key_names(PromptShape):
        wrong.hint = "it belongs to a single step: write it there"
    return wrong


def _place(node: Node, path: list[str]) -> Location:
    """Where the last part of a path stands; that of what should hold it if it is not there."""
    where = node.where
    for part in path:
        entry = node.entry(part) if isinstance(node, Mapping) else None
        if entry is not None:
            where, node = entry.where, entry.value
        elif isinstance(node, Sequence):
            node = node.items[int(part)]
            where = node.where
    return where


_NESTED: dict[str, type[Shape]] = {
    "retry": RetryShape,
    "limits": LimitsShape,
    "enforce": EnforceShape,
    "accept": AcceptShape,
    "batch": BatchShape,
    "http": HttpRequestShape,
}


def _table(shape: type[Shape], path: list[str], what: str) -> tuple[type[Shape], str]:
    """The table at a path below a shape, and its name for a sentence."""
    if not path:
        return shape, what
    if path[-2:-1] == ["models"]:
        return ModelLimitsShape, f"`models.{path[-1]}`"
    if path[-2:-1] == ["windows"]:
        return WindowShape, "`windows`"
    return _NESTED.get(path[-1], shape), f"`{path[-1]}`"


_FOREIGN: dict[type[Shape], str] = {
    DefaultsShape: "step",
    RetryShape: "retry",
    LimitsShape: "limits",
    EnforceShape: "limits",
    ModelLimitsShape: "limits",
}
"""Tables of keys for which those of other systems are known."""


def unknown_key(key: str, where: Location, holder: str, known: list[str], foreign: str = "") -> Wrong:
    """What is wrong with a key that a table does not have. `foreign`: where to look for keys of other systems."""
    hint = meant(key, foreign) if foreign else ""
    return Wrong(where, f"unknown key `{key}` in {holder}", hint or nearest(key, known))
