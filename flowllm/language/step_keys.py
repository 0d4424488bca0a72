"""Tables of keys of steps."""

from __future__ import annotations

from flowllm.core.types import RetryPolicy
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.keys import REQUIRED, Key, Keys, nested
from flowllm.language.kinds import all_keys
from flowllm.language.problems import Location, SourceError


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
