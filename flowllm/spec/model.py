"""The shape of a workflow file and of flowllm.yaml: every key, and what it means.

One class a table of keys. Parsing reads nodes with them; the JSON Schema for editors and the tables of the
language's documentation come from them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flowllm.spec import fields as f  # noqa: TC001 - pydantic reads annotations at run time
from flowllm.spec.nodes import Mapping, Node, Sequence, kind_of
from flowllm.spec.problems import Problems, Wrong, listing, nearest
from flowllm.spec.readers import items, named

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from flowllm.spec.reference import Location

KINDS = ("prompt", "messages", "python", "value")
"""The keys of which a step has exactly one."""
LATER_KINDS = ("embed", "shell", "http", "workflow")
LATER_STEP_KEYS = (
    *LATER_KINDS,
    *("foreach", "as", "accept", "max_failed", "max_concurrent", "save", "images"),
    *("dimensions", "batch", "stdin", "env"),
)


class Shape(BaseModel):
    """A table of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, node: Any) -> Any:
        if isinstance(node, Mapping):
            return {entry.key: entry.value for entry in node.entries}
        if isinstance(node, dict):
            return node
        raise Wrong(node.where, f"expected a mapping, found {kind_of(node)}", "write {key: value}")


class RetryShape(Shape):
    """How failed attempts are made again. Rate-limit answers use up no attempts."""

    max_attempts: f.Count = Field(5, description="Attempts in all.")
    initial_delay: f.DurationOrZero = Field(1.0, description="Wait before the second attempt.")
    max_delay: f.DurationOrZero = Field(60.0, description="The longest wait between two attempts.")
    multiplier: f.Multiplier = Field(2.0, description="How much longer each wait is than the one before.")
    jitter: f.Jitter = Field(
        "full", description="full: each wait is drawn evenly from 0 to the computed one."
    )
    attempt_timeout: f.Duration = Field(300.0, description="The longest that one attempt may take.")


class EnforceShape(Shape):
    """What a simulated server allows."""

    max_concurrent: f.Count | None = Field(
        None, description="Requests in flight at the same time (an account: 10)."
    )
    requests_per_minute: f.Rate | None = Field(None, description="Requests a minute.")
    tokens_per_minute: f.Rate | None = Field(None, description="Tokens a minute, input and output together.")
    burst: f.Count | None = Field(
        None,
        description="Requests that may go at once after a pause (a sixtieth of requests_per_minute, at least 1).",
    )


class WindowShape(Shape):
    """A strict window."""

    requests: f.Count = Field(description="The most requests that are sent in one span.")
    per: f.Duration = Field(description="The span's length; it may begin anywhere.")


class ModelLimitsShape(EnforceShape):
    """What one model of an account allows."""

    windows: Annotated[tuple[WindowShape, ...], BeforeValidator(items)] | None = Field(
        None, description="Strict windows, such as {requests: 10, per: 1s}; all of them hold."
    )


class LimitsShape(ModelLimitsShape):
    """What an account allows."""

    adaptive: f.Flag | None = Field(
        None, description="Learns from headers and 429s, never above what is written (true)."
    )
    models: Annotated[dict[str, ModelLimitsShape], BeforeValidator(named)] | None = Field(
        None, description="Further limits of single models, by name."
    )
    give_up_after: f.Duration | None = Field(
        None, description="Time without one success after which a run is paused (15m)."
    )
    stop_at_error_rate: f.Share | None = Field(
        None, description="A run in which a larger share of nodes failed ends."
    )
    tokens_charged: f.TokensCharged | None = Field(
        None,
        description="What an answer takes of tokens_per_minute. request: what was reserved; usage: what it used "
        "(as the server's headers show, else request).",
    )


class BudgetShape(Shape):
    """What a run may spend."""

    usd: f.Rate | None = Field(None, description="US dollars.")
    tokens: f.Count | None = Field(None, description="Tokens, input and output together.")
    on_exceed: f.OnExceed | None = Field(
        None, description="pause: the run can be resumed with a larger budget; fail: it fails (pause)."
    )


class OpenAIShape(Shape):
    """A server that speaks OpenAI's API."""

    type: f.ProviderType = Field("openai", description="openai: any server that speaks OpenAI's API.")
    base_url: f.BaseUrl | None = Field(
        None, description="Address of the API (OPENAI_BASE_URL or OpenAI's own)."
    )
    api_key_env: f.Variable | None = Field(None, description="Environment variable that holds the key.")
    api: f.Api = Field("chat", description="chat: Chat Completions; responses: the Responses API.")
    headers: f.Headers = Field(
        default_factory=dict, description="Sent with every request; ${NAME} is an environment variable."
    )
    structured: f.Structured = Field("json_schema", description="How a JSON Schema travels to the server.")
    max_tokens_field: f.TokensField | None = Field(
        None, description="Name under which max_tokens is sent (max_completion_tokens at OpenAI's own host)."
    )
    limits: LimitsShape | None = Field(None, description="Limits of this account.")


class SimulatedShape(Shape):
    """Answers without a network: the same question gets the same answer."""

    type: f.ProviderType = Field("simulated", description="simulated: answers are made up, nothing is sent.")
    seed: f.Integer = Field(0, description="Another seed gives other answers.")
    latency: f.DurationOrZero = Field(0.0, description="Median time of an answer.")
    latency_sigma: f.Sigma = Field(0.0, description="Sigma of the log-normal distribution of that time.")
    error_rate: f.Share = Field(0.0, description="Share of requests that fail with a 500.")
    rate_limit_rate: f.Share = Field(0.0, description="Share of requests that get a 429.")
    enforce: EnforceShape | None = Field(
        None, description="The server's own limits: requests above them get a 429."
    )
    limits: LimitsShape | None = Field(None, description="Limits of this account.")


class InputShape(Shape):
    """An input's declaration."""

    type: f.InputType | None = Field(
        None, description="What values it takes (that of the default, else string)."
    )
    default: f.Anything | None = Field(
        None, description="The value if none is given; without it, one must be given."
    )
    enum: f.Anything | None = Field(None, description="The values it may have.")
    description: f.AnyText = Field("", description="What it is for.")


class _CommonOptions(Shape):
    retry: RetryShape | None = Field(None, description="How failed attempts are made again.")
    timeout: f.Duration | None = Field(
        None,
        description="All attempts together, from the first admission (30m); waiting for limits does not count.",
    )
    cache: f.Cache | None = Field(
        None,
        description="Whether answers are kept and used again: true, false or {ttl: 7d}. LLM steps: true.",
    )
    priority: f.PriorityWord | None = Field(None, description="Order among waiting requests (normal).")
    on_error: f.OnErrorWord | None = Field(
        None, description="fail: the run fails; continue: dependents see the step as skipped."
    )


class _StepOptions(_CommonOptions):
    needs: f.Needs = Field((), description="Steps to wait for that no template refers to.")
    when: f.When | None = Field(
        None, description="One {{ expression }} that gives true or false; false skips the step."
    )


class _LlmOptions(_CommonOptions):
    provider: f.Text | None = Field(
        None, description="Name of a provider: openai, simulated, auto, or one of yours."
    )
    model: f.Text | None = Field(None, description="Name of the model.")
    fallback: f.Fallback = Field(
        (), description="Who is asked when a model is down, refuses or never gives a valid answer."
    )
    output: f.OutputShape | None = Field(
        None, description="json, a JSON Schema, or a schema's file: the answer is JSON and checked."
    )
    sample: f.Sample | None = Field(
        None, description="Number of an independent answer to the same question (0)."
    )
    samples: f.Samples | None = Field(None, description="Asks that often; the output is the list of answers.")
    on_truncated: f.OnTruncatedWord | None = Field(
        None, description="What an answer cut at max_tokens means: warn (kept) or fail."
    )
    max_tokens: f.Whole | None = Field(None, description="The longest answer, in tokens.")
    temperature: f.Temperature | None = Field(None, description="0 to 2.")
    top_p: f.TopP | None = Field(None, description="0 to 1.")
    seed: f.Seed | None = Field(None, description="Asks for repeatable sampling where the server has it.")
    stop: f.Stop | None = Field(None, description="Text, or texts, at which the answer ends.")
    params: f.Params | None = Field(None, description="Anything else that the API takes, sent as it is.")


class DefaultsShape(_LlmOptions):
    """Options of every LLM step that does not set them itself; never templates."""


class PromptShape(_StepOptions, _LlmOptions):
    """One chat completion from a text."""

    prompt: f.Prompt = Field(description="What is asked: a text, or {file: ./prompt.md}.")
    system: f.Prompt | None = Field(None, description="The system message: a text, or {file: ./system.md}.")


class MessagesShape(_StepOptions, _LlmOptions):
    """One chat completion from messages in the API's own shape."""

    messages: f.Messages = Field(description="List of {role, content}.")


class PythonShape(_StepOptions):
    """A call of a function."""

    python: f.PlainText = Field(description="module:function, or ./file.py:function.")
    with_: f.Arguments | None = Field(None, alias="with", description="Keyword arguments.")


class ValueShape(_StepOptions):
    """A value computed from templates."""

    value: f.Anything = Field(description="Any value; texts in it may be templates.")


STEP_SHAPES: dict[str, type[_StepOptions]] = {
    "prompt": PromptShape,
    "messages": MessagesShape,
    "python": PythonShape,
    "value": ValueShape,
}


class ProjectShape(Shape):
    """flowllm.yaml: what the workflows below its folder share."""

    providers: dict[str, OpenAIShape | SimulatedShape] = Field(
        default_factory=dict, description="Who can be asked."
    )
    limits: LimitsShape | None = Field(
        None, description="Limits of the account that defaults.provider names."
    )
    defaults: DefaultsShape | None = Field(None, description="Options of every LLM step.")
    database: f.PlainText | None = Field(None, description="Where runs are kept: a database's URL.")
    prices: dict[str, f.Price] = Field(
        default_factory=dict,
        description="Prices by model, US dollars per million tokens: {input, output, cached_input}.",
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
    secrets: f.Secrets = Field(
        (), description="Environment variables that templates may use as {{ secrets.NAME }}."
    )
    defaults: DefaultsShape | None = Field(None, description="Options of every LLM step.")
    providers: dict[str, OpenAIShape | SimulatedShape] = Field(
        default_factory=dict, description="Who can be asked."
    )
    limits: LimitsShape | None = Field(
        None, description="Limits of the account that defaults.provider names."
    )
    budget: BudgetShape | None = Field(None, description="What a run may spend, with all its resumes.")
    steps: dict[str, PromptShape | MessagesShape | PythonShape | ValueShape] = Field(
        description="What is done, by id; steps start when what they refer to is there."
    )
    outputs: dict[str, f.Anything] = Field(default_factory=dict, description="What the run gives, by name.")


S = TypeVar("S", bound=Shape)


def key_names(shape: type[Shape]) -> list[str]:
    """The keys of a table as they are written."""
    return [field.alias or name for name, field in shape.model_fields.items()]


def read_shape(
    shape: type[S], node: Node, what: str, problems: Problems, *, step: str = "", later: tuple[str, ...] = ()
) -> S | None:
    """Read a node by a table of keys. All that is wrong goes to `problems`; then the result is None."""
    try:
        return shape.model_validate(node)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            wrong = detail.get("ctx", {}).get("error")
            if not isinstance(wrong, Wrong):
                wrong = _explain(shape, node, detail, what, later)
            problems.add_wrong(wrong, step=step)
        return None


def _explain(
    shape: type[Shape], node: Node, detail: ErrorDetails, what: str, later: tuple[str, ...]
) -> Wrong:
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
    wrong = unknown_key(key, where, holder, known, later)
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


_NESTED: dict[str, type[Shape]] = {"retry": RetryShape, "limits": LimitsShape, "enforce": EnforceShape}


def _table(shape: type[Shape], path: list[str], what: str) -> tuple[type[Shape], str]:
    """The table at a path below a shape, and its name for a sentence."""
    if not path:
        return shape, what
    if path[-2:-1] == ["models"]:
        return ModelLimitsShape, f"`models.{path[-1]}`"
    if path[-2:-1] == ["windows"]:
        return WindowShape, "`windows`"
    return _NESTED.get(path[-1], shape), f"`{path[-1]}`"


def unknown_key(
    key: str, where: Location, holder: str, known: list[str], later: tuple[str, ...] = ()
) -> Wrong:
    """What is wrong with a key that a table does not have."""
    if key in later:
        return Wrong(where, f"`{key}` is not supported yet", "this version of flowllm does not have it")
    return Wrong(where, f"unknown key `{key}` in {holder}", nearest(key, known))
