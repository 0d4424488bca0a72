"""Tables of keys of steps, one a kind."""

from __future__ import annotations

from pydantic import Field

from flowllm.language import fields as f
from flowllm.language.model_accounts import RetryShape, Shape


class _CommonOptions(Shape):
    retry: RetryShape | None = Field(None, description="How failed attempts are made again.")
    timeout: f.Duration | None = Field(
        None, description="All attempts together, from the first admission (30m); waiting for limits does not count."
    )
    cache: f.Cache | None = Field(
        None,
        description="Whether answers are kept and used again: true, false or {ttl: 7d}. LLM and embed steps: true.",
    )
    priority: f.PriorityWord | None = Field(None, description="Order among waiting requests (normal).")
    on_error: f.OnErrorWord | None = Field(
        None, description="fail: the run fails; continue: dependents see the step as skipped."
    )


class AcceptShape(Shape):
    """When a foreach has enough."""

    when: f.When = Field(description="One {{ expression }} on output, item, index and accepted: true accepts the item.")
    count: f.Whole = Field(description="How many are wanted; the output is the first so many in input order.")
    overshoot: f.Overshoot = Field(
        1.0,
        description="At most this many times the items still wanted are in flight; with 1 no accepted answer is in vain.",
    )


class DataFileShape(Shape):
    """A data set that is read as a stream."""

    file: f.Text = Field(description="Path, relative to the workflow's file; - is standard input.")
    format: f.DataFormat | None = Field(None, description="jsonl, json, csv or lines (by the file's ending).")
    delimiter: f.Delimiter | None = Field(
        None, description="Of CSV: one character (a tab for .tsv, else as the header shows: , ; | or a tab)."
    )
    limit: f.Count | None = Field(None, description="Only so many first items.")


class DataFilesShape(Shape):
    """Files each of which is an item."""

    files: f.Text = Field(
        description="Pattern of paths, relative to the workflow's file, such as docs/**/*.md; items are {path, text}."
    )
    limit: f.Count | None = Field(None, description="Only so many first items.")


class _FanoutOptions(Shape):
    foreach: f.ForeachSource | None = Field(
        None,
        description="Runs the step once for each item: an expression that gives a list, {file: rows.jsonl}, "
        "{files: docs/**/*.md}, or {matrix: {name: list}}.",
    )
    as_: f.ItemName | None = Field(None, alias="as", description="What templates call the item (item).")
    max_concurrent: f.Count | None = Field(None, description="Items of the foreach in flight at most.")
    max_failed: f.MaxFailed | None = Field(
        None,
        description="Under on_error: continue: the step fails when more items than this fail, such as 10 or 5%; by default "
        "when all do.",
    )
    accept: AcceptShape | None = Field(
        None, description="Ends a foreach when enough items are accepted: {when, count, overshoot}."
    )


class _FlowOptions(_FanoutOptions):
    needs: f.Needs = Field((), description="Steps to wait for that no template refers to.")
    when: f.When | None = Field(
        None, description="One {{ expression }} that gives true or false; false skips the step, or the item."
    )
    save: f.Text | None = Field(
        None, description="Path of a file that the output is written to, relative to the working directory."
    )


class _StepOptions(_CommonOptions, _FlowOptions):
    pass


class _LlmOptions(_CommonOptions):
    provider: f.Text | None = Field(None, description="Name of a provider: openai, simulated, auto, or one of yours.")
    model: f.Text | None = Field(None, description="Name of the model.")
    fallback: f.Fallback = Field(
        (), description="Who is asked when a model is down, refuses or never gives a valid answer."
    )
    output: f.OutputShape | None = Field(
        None, description="json, a JSON Schema, or a schema's file: the answer is JSON and checked."
    )
    sample: f.Sample | None = Field(None, description="Number of an independent answer to the same question (0).")
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

    system: f.Prompt | None = Field(
        None, description="The system message of every `prompt` step: a text, or {file: ./system.md}."
    )


class PromptShape(_StepOptions, _LlmOptions):
    """One chat completion from a text."""

    prompt: f.Prompt = Field(description="What is asked: a text, or {file: ./prompt.md}.")
    system: f.Prompt | None = Field(None, description="The system message: a text, or {file: ./system.md}.")
    images: f.Images | None = Field(None, description="URLs or files of images that go with the text.")


class MessagesShape(_StepOptions, _LlmOptions):
    """One chat completion from messages in the API's own shape."""

    messages: f.Messages = Field(
        description="List of {role, content}; an item that is a template may give several of them, as a list."
    )


class BatchShape(Shape):
    """How texts share requests."""

    size: f.BatchSize = Field(100, description="Texts in one request at most.")
    max_wait: f.DurationOrZero = Field(0.05, description="The longest that a text waits for others (50ms).")


class EmbedShape(_StepOptions):
    """Embeddings of a text, or of each text of a list."""

    embed: f.Embedded = Field(description="A text, or a list of texts.")
    provider: f.Text | None = Field(None, description="Name of a provider (that of `defaults`).")
    model: f.Text | None = Field(None, description="Name of an embedding model; `defaults.model` is not used.")
    dimensions: f.Whole | None = Field(None, description="Length of the vectors, where the model can choose.")
    batch: BatchShape | None = Field(None, description="How texts share requests: {size, max_wait}.")
    params: f.EmbedParams | None = Field(None, description="Anything else that the API takes, sent as it is.")


class HttpRequestShape(Shape):
    """One HTTP request."""

    url: f.Text = Field(description="http or https; may hold {{ secrets.NAME }}.")
    method: f.Method = Field("GET", description="GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.")
    headers: f.RequestHeaders | None = Field(None, description="By name; may hold {{ secrets.NAME }}.")
    query: f.Query | None = Field(
        None, description="Parameters that are added to the URL; may hold {{ secrets.NAME }}."
    )
    json_: f.Anything | None = Field(None, alias="json", description="Body, sent as JSON.")
    body: f.Written | None = Field(None, description="Body, sent as it is.")
    allow_private: f.Flag = Field(False, description="Private, loopback and link-local addresses may be asked.")


class HttpShape(_StepOptions):
    """One HTTP request; the output is {status, headers, body}."""

    http: HttpRequestShape = Field(description="{method, url, headers, query, json, body}.")


class ShellShape(_StepOptions):
    """A command; the output is what it writes to standard output."""

    shell: f.Command = Field(description="Run by /bin/sh, as it is written: never a template.")
    stdin: f.Written | None = Field(None, description="What the command reads.")
    env: f.Environment | None = Field(None, description="Added to its environment; may hold {{ secrets.NAME }}.")


class WorkflowStepShape(_FlowOptions):
    """Another graph as one step."""

    workflow: f.Graph = Field(description="./other.yaml, or the graph itself: {inputs, steps, outputs}.")
    with_: f.Inputs | None = Field(
        None, alias="with", description="Its inputs, by name, or one template that gives them."
    )
    on_error: f.OnErrorWord | None = Field(
        None, description="fail: the run fails; continue: dependents see the step as skipped."
    )


class PythonShape(_StepOptions):
    """A call of a function."""

    python: f.PlainText = Field(description="module:function, or ./file.py:function.")
    with_: f.Arguments | None = Field(None, alias="with", description="Keyword arguments.")
    asks: f.Flag = Field(False, description="Hands the function `ask`, by which it asks models as steps do.")


class ValueShape(_StepOptions):
    """A value computed from templates."""

    value: f.Anything = Field(description="Any value; texts in it may be templates.")


STEP_SHAPES: dict[str, type[_FlowOptions]] = {
    "prompt": PromptShape,
    "messages": MessagesShape,
    "embed": EmbedShape,
    "python": PythonShape,
    "shell": ShellShape,
    "http": HttpShape,
    "workflow": WorkflowStepShape,
    "value": ValueShape,
}
KINDS = tuple(STEP_SHAPES)
"""The keys of which a step has exactly one."""
