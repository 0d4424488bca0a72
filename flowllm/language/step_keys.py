"""Tables of keys of steps."""

from __future__ import annotations

from flowllm.core.types import RetryPolicy
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.keys import REQUIRED, Key, Keys, nested
from flowllm.language.kinds import all_keys
from flowllm.language.problems import SourceError
from flowllm.language.reference import Location


class RetryKeys(Keys, title="retry"):
    """How failed attempts are made again. Rate-limit answers use up no attempts."""

    foreign = "retry"
    max_attempts = Key(v.count, "Attempts in all.", 5)
    initial_delay = Key(v.duration_or_zero, "Wait before the second attempt.", 1.0)
    max_delay = Key(v.duration_or_zero, "The longest wait between two attempts.", 60.0)
    multiplier = Key(v.number(least=1, most=1000), "How much longer each wait is than the one before.", 2.0)
    jitter = Key(v.choice("full", "none"), "full: each wait is drawn evenly from 0 to the computed one.", "full")
    attempt_timeout = Key(v.duration, "The longest that one attempt may take.", 300.0)


def retry_policy(keys: RetryKeys | None, *, harmless: bool) -> RetryPolicy:
    """How a step's failed attempts are made again; without `retry` only what is harmless is."""
    if keys is None:
        return RetryPolicy() if harmless else RetryPolicy(max_attempts=1)
    return RetryPolicy(**{**keys.values, "jitter": keys.jitter == "full"})


class CommonKeys(Keys):
    """How a call is carried out."""

    retry = Key(nested(RetryKeys, "retry"), "How failed attempts are made again.")
    timeout = Key(
        v.duration, "All attempts together, from the first admission (30m); waiting for limits does not count."
    )
    cache = Key(
        sv.cache, "Whether answers are kept and used again: true, false or {ttl: 7d}. LLM and embed steps: true."
    )
    priority = Key(v.priority, "Order among waiting requests (normal).")
    on_error = Key(v.on_error, "fail: the run fails; continue: dependents see the step as skipped.")


class AcceptKeys(Keys, title="accept"):
    """When a foreach has enough."""

    when = Key(
        v.condition, "One {{ expression }} on output, item, index and accepted: true accepts the item.", REQUIRED
    )
    count = Key(
        v.number(least=1, whole=True, template=True),
        "How many are wanted; the output is the first so many in input order.",
        REQUIRED,
    )
    overshoot = Key(
        v.number(least=1, most=1000),
        "At most this many times the items still wanted are in flight; with 1 no accepted answer is in vain.",
        1.0,
    )


class DataFileKeys(Keys, title="data file"):
    """A data set that is read as a stream."""

    file = Key(v.text, "Path, relative to the workflow's file; - is standard input.", REQUIRED)
    format = Key(v.choice(*sv.DATA_FORMATS), "jsonl, json, csv or lines (by the file's ending).")
    delimiter = Key(sv.delimiter, "Of CSV: one character (a tab for .tsv, else as the header shows: , ; | or a tab).")
    limit = Key(v.count, "Only so many first items.")


class DataFilesKeys(Keys, title="data files"):
    """Files each of which is an item."""

    files = Key(
        v.text,
        "Pattern of paths, relative to the workflow's file, such as docs/**/*.md; items are {path, text}.",
        REQUIRED,
    )
    limit = Key(v.count, "Only so many first items.")


class ForeachKeys(Keys):
    """A step that runs once for each item."""

    foreach = Key(
        sv.foreach_source,
        "Runs the step once for each item: an expression that gives a list, {file: rows.jsonl}, "
        "{files: docs/**/*.md}, or {matrix: {name: list}}.",
    )
    as_ = Key(sv.item_name, "What templates call the item (item).")
    max_concurrent = Key(v.count, "Items of the foreach in flight at most.")
    max_failed = Key(
        sv.count_or_share,
        "Under on_error: continue: the step fails when more items than this fail, such as 10 or 5%; by default "
        "when all do.",
    )
    accept = Key(
        nested(AcceptKeys, "accept"), "Ends a foreach when enough items are accepted: {when, count, overshoot}."
    )


class FlowKeys(ForeachKeys):
    """When a step runs, and how often: keys of every step."""

    needs = Key(v.name_list(v.NAME, "a step's id"), "Steps to wait for that no template refers to.", ())
    when = Key(v.condition, "One {{ expression }} that gives true or false; false skips the step, or the item.")
    save = Key(v.text, "Path of a file that the output is written to, relative to the working directory.")


class StepKeys(CommonKeys, FlowKeys):
    """Keys of every step but a `workflow` step."""


class LlmKeys(CommonKeys):
    """Keys of every step that asks a chat model."""

    provider = Key(v.text, "Name of a provider: openai, simulated, auto, or one of yours.")
    model = Key(v.text, "Name of the model.")
    fallback = Key(sv.fallback, "Who is asked when a model is down, refuses or never gives a valid answer.", ())
    output = Key(sv.output, "json, a JSON Schema, or a schema's file: the answer is JSON and checked.")
    sample = Key(
        v.number(least=0, whole=True, template=True), "Number of an independent answer to the same question (0)."
    )
    samples = Key(v.number(least=1, most=1000, whole=True), "Asks that often; the output is the list of answers.")
    on_truncated = Key(sv.on_truncated, "What an answer cut at max_tokens means: warn (kept) or fail.")
    max_tokens = Key(v.number(least=1, whole=True, template=True), "The longest answer, in tokens.")
    temperature = Key(v.number(least=0, most=2, template=True), "0 to 2.")
    top_p = Key(v.number(least=0, most=1, template=True), "0 to 1.")
    seed = Key(v.number(whole=True, template=True), "Asks for repeatable sampling where the server has it.")
    stop = Key(sv.stop, "Text, or texts, at which the answer ends.")
    params = Key(sv.chat_params, "Anything else that the API takes, sent as it is.")


class DefaultsKeys(LlmKeys, title="defaults"):
    """Options of every LLM step that does not set them itself; never templates."""

    foreign = "step"
    system = Key(sv.prompt, "The system message of every `prompt` step: a text, or {file: ./system.md}.")

    @classmethod
    def unknown(cls, key: str, where: Location, what: str) -> SourceError:
        """Tells of keys that a step has."""
        error = super().unknown(key, where, what)
        if key in all_keys():
            error.hint = "it belongs to a single step: write it there"
        return error


class PromptKeys(StepKeys, LlmKeys, title="prompt step"):
    """One chat completion from a text."""

    prompt = Key(sv.prompt, "What is asked: a text, or {file: ./prompt.md}.", REQUIRED)
    system = Key(sv.prompt, "The system message: a text, or {file: ./system.md}.")
    images = Key(sv.images, "URLs or files of images that go with the text.")


class MessagesKeys(StepKeys, LlmKeys, title="messages step"):
    """One chat completion from messages in the API's own shape."""

    messages = Key(
        sv.messages,
        "List of {role, content}; an item that is a template may give several of them, as a list.",
        REQUIRED,
    )


class BatchKeys(Keys, title="batch"):
    """How texts share requests."""

    size = Key(v.number(least=1, most=2048, whole=True), "Texts in one request at most.", 100)
    max_wait = Key(v.duration_or_zero, "The longest that a text waits for others (50ms).", 0.05)


class EmbedKeys(StepKeys, title="embed step"):
    """Embeddings of a text, or of each text of a list."""

    embed = Key(sv.texts, "A text, or a list of texts.", REQUIRED)
    provider = Key(v.text, "Name of a provider (that of `defaults`).")
    model = Key(v.text, "Name of an embedding model; `defaults.model` is not used.")
    dimensions = Key(v.number(least=1, whole=True, template=True), "Length of the vectors, where the model can choose.")
    batch = Key(nested(BatchKeys, "batch"), "How texts share requests: {size, max_wait}.")
    params = Key(sv.embed_params, "Anything else that the API takes, sent as it is.")


class HttpRequestKeys(Keys, title="HTTP request"):
    """One HTTP request."""

    url = Key(v.text, "http or https; may hold {{ secrets.NAME }}.", REQUIRED)
    method = Key(
        v.choice("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
        "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.",
        "GET",
    )
    headers = Key(sv.texts_by_name(v.HEADER_NAME, "a header"), "By name; may hold {{ secrets.NAME }}.")
    query = Key(sv.query, "Parameters that are added to the URL; may hold {{ secrets.NAME }}.")
    json = Key(v.anything, "Body, sent as JSON.")
    body = Key(v.written, "Body, sent as it is.")
    allow_private = Key(v.boolean, "Private, loopback and link-local addresses may be asked.", default=False)


class HttpKeys(StepKeys, title="http step"):
    """One HTTP request; the output is {status, headers, body}."""

    http = Key(nested(HttpRequestKeys, "http"), "{method, url, headers, query, json, body}.", REQUIRED)


class ShellKeys(StepKeys, title="shell step"):
    """A command; the output is what it writes to standard output."""

    shell = Key(sv.command, "Run by /bin/sh, as it is written: never a template.", REQUIRED)
    stdin = Key(v.written, "What the command reads.")
    env = Key(
        sv.texts_by_name(v.ENVIRONMENT_NAME, "an environment variable"),
        "Added to its environment; may hold {{ secrets.NAME }}.",
    )


class WorkflowStepKeys(FlowKeys, title="workflow step"):
    """Another graph as one step."""

    workflow = Key(sv.graph, "./other.yaml, or the graph itself: {inputs, steps, outputs}.", REQUIRED)
    with_ = Key(sv.arguments_or_template, "Its inputs, by name, or one template that gives them.")
    on_error = Key(v.on_error, "fail: the run fails; continue: dependents see the step as skipped.")


class PythonKeys(StepKeys, title="python step"):
    """A call of a function."""

    python = Key(v.plain_text, "module:function, or ./file.py:function.", REQUIRED)
    with_ = Key(sv.arguments, "Keyword arguments.")
    asks = Key(v.boolean, "Hands the function `ask`, by which it asks models as steps do.", default=False)


class ValueKeys(StepKeys, title="value step"):
    """A value computed from templates."""

    value = Key(v.anything, "Any value; texts in it may be templates.", REQUIRED)
