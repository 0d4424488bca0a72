"""Tables of keys of a workflow's file, of its steps, and of flowllm.yaml."""

from __future__ import annotations

import math
from typing import Any, Final

from flowllm.core.types import RetryPolicy
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.keys import REQUIRED, Key, Keys, Value, by_name, listed, nested
from flowllm.language.kinds import all_keys
from flowllm.language.problems import Location, SourceError, listing


class RetryKeys(Keys, title="retry"):
    """How failed attempts are made again. Rate-limit answers use up no attempts."""

    foreign = "retry"
    max_attempts = Key(v.count, "Attempts in all.", 5)
    initial_delay = Key(v.duration_or_zero, "Wait before the second attempt.", 1.0)
    max_delay = Key(v.duration_or_zero, "The longest wait between two attempts.", 60.0)
    multiplier = Key(v.number(least=1, most=1000), "How much longer each wait is than the one before.", 2.0)
    jitter = Key(v.choice("full", "none"), "full: each wait is drawn evenly from 0 to the computed one.", "full")
    attempt_timeout = Key(v.duration, "The longest that one attempt may take.", 300.0)
    hedge = Key(
        sv.hedge,
        "When an attempt is sent once more, beside it: auto (once it takes much longer than its like), off, or after so long.",
        "auto",
    )


def retry_policy(keys: RetryKeys | None, *, harmless: bool) -> RetryPolicy:
    """How a step's attempts are made again; what is not harmless is never sent twice, and without `retry` not again."""
    if keys is None:
        return _USUAL if harmless else _ONCE
    hedge = keys.hedge if harmless else "off"
    seconds = {"auto": None, "off": math.inf}.get(hedge) if isinstance(hedge, str) else hedge
    return RetryPolicy(**{**keys.values, "jitter": keys.jitter == "full", "hedge": seconds})


_USUAL: Final = RetryPolicy()
_ONCE: Final = RetryPolicy(max_attempts=1, hedge=math.inf)


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


class EnforceKeys(Keys, title="limits of a simulated server"):
    """What a simulated server allows."""

    foreign = "limits"
    max_concurrent: Key[Any] = Key(v.count, "Requests in flight at the same time.")
    requests_per_minute = Key(v.rate, "Requests a minute.")
    tokens_per_minute = Key(v.rate, "Tokens a minute, input and output together.")
    burst = Key(v.count, "Requests that may go at once after a pause (a sixtieth of requests_per_minute, at least 1).")

    @classmethod
    def unknown(cls, key: str, where: Location, what: str) -> SourceError:
        """Tells of limits that only an account has."""
        if key in LimitsKeys.table:
            return SourceError(where, f"`{key}` does not apply to {what}", f"there is {listing(cls.table)}")
        return super().unknown(key, where, what)


class WindowKeys(Keys, title="window"):
    """A strict window."""

    requests = Key(v.count, "The most requests that are sent in one span.", REQUIRED)
    per = Key(v.duration, "The span's length; it may begin anywhere.", REQUIRED)


class ModelLimitsKeys(EnforceKeys, title="limits of a model"):
    """What one model of an account allows."""

    max_concurrent = Key(
        v.count_or_auto, "Requests in flight at the same time; auto finds as many as bring more (auto)."
    )
    windows = Key(listed(WindowKeys, "windows"), "Strict windows, such as {requests: 10, per: 1s}; all of them hold.")


def _check_model(name: str, where: Location) -> None:
    if not name.strip():
        raise SourceError(where, "expected a name, found nothing")
    if v.is_template(name):
        raise SourceError(where, "a template cannot stand here", "write the name itself")


class LimitsKeys(ModelLimitsKeys, title="limits"):
    """What an account allows."""

    adaptive = Key(v.boolean, "Learns from headers and 429s, never above what is written (true).")
    prefix_cache = Key(
        v.choice("auto", "on", "off"),
        "Whether requests wait until one whose prompt begins the same is answered, so that the provider reads it from its "
        "cache. auto: where its answers show that it has one (auto).",
    )
    models = Key(
        by_name(lambda name: nested(ModelLimitsKeys, f"models.{name}"), "models", _check_model),
        "Further limits of single models, by name.",
    )
    give_up_after = Key(v.duration, "Time without one success after which a run is paused (15m).")
    stop_at_error_rate = Key(v.share, "A run in which a larger share of nodes failed ends.")
    tokens_charged = Key(
        v.choice("request", "usage"),
        "What an answer takes of tokens_per_minute. request: what was reserved; usage: what it used "
        "(as the server's headers show, else request).",
    )


class BudgetKeys(Keys, title="budget"):
    """What a run may spend."""

    usd = Key(v.rate, "US dollars.")
    tokens = Key(v.count, "Tokens, input and output together.")
    on_exceed = Key(
        v.choice("pause", "fail"), "pause: the run can be resumed with a larger budget; fail: it fails (pause)."
    )


def _provider_type(kind: str) -> Value[str]:
    return Value(v.choice("openai", "simulated").read, {"enum": [kind]})


class OpenAIKeys(Keys, title="provider (openai)"):
    """A server that speaks OpenAI's API."""

    type = Key(_provider_type("openai"), "openai: any server that speaks OpenAI's API.", "openai")
    base_url = Key(v.base_url, "Address of the API (OPENAI_BASE_URL or OpenAI's own).")
    api_key_env = Key(v.environment_name, "Environment variable that holds the key.")
    api = Key(v.choice("chat", "responses"), "chat: Chat Completions; responses: the Responses API.", "chat")
    headers = Key(v.headers, "Sent with every request; ${NAME} is an environment variable.", {})
    structured = Key(
        v.choice("json_schema", "json_object_schema", "json_object", "prompt"),
        "How a JSON Schema travels to the server: as OpenAI has it, beside json_object, or in the prompt.",
        "json_schema",
    )
    max_tokens_field = Key(
        v.choice("max_tokens", "max_completion_tokens"),
        "Name under which max_tokens is sent (max_completion_tokens at OpenAI's own host).",
    )
    limits = Key(nested(LimitsKeys, "limits"), "Limits of this account.")


class SimulatedKeys(Keys, title="provider (simulated)"):
    """Answers without a network: the same question gets the same answer."""

    type = Key(_provider_type("simulated"), "simulated: answers are made up, nothing is sent.", "simulated")
    seed = Key(v.integer, "Another seed gives other answers.", 0)
    latency = Key(v.duration_or_zero, "Median time of an answer.", 0.0)
    latency_sigma = Key(v.number(least=0, most=10), "Sigma of the log-normal distribution of that time.", 0.0)
    slots = Key(v.count, "Requests that are served at the same time, while others wait (any number).")
    error_rate = Key(v.share, "Share of requests that fail with a 500.", 0.0)
    rate_limit_rate = Key(v.share, "Share of requests that get a 429.", 0.0)
    hang_rate = Key(v.share, "Share of requests that are never answered.", 0.0)
    prompt_cache = Key(v.boolean, "Keeps the beginnings of prompts, from 1,024 tokens on, as providers do.", False)
    prefill = Key(v.duration_or_zero, "Time to read 1,000 tokens of a prompt that it does not keep.", 0.0)
    enforce = Key(nested(EnforceKeys, "enforce"), "The server's own limits: requests above them get a 429.")
    limits = Key(nested(LimitsKeys, "limits"), "Limits of this account.")


class InputKeys(Keys, title="input"):
    """An input's declaration."""

    type = Key(v.choice(*v.INPUT_TYPES), "What values it takes (that of the default, else string).")
    default = Key(v.anything, "The value if none is given; without it, one must be given.")
    enum = Key(v.anything, "The values it may have.")
    description = Key(v.any_text, "What it is for.", "")


def _names_to(schema: dict[str, Any], name: str = v.NAME.pattern) -> Value[Any]:
    """A section that is read entry by entry: a mapping of names to what the schema says."""
    return Value(
        v.anything.read, {"type": "object", "propertyNames": {"pattern": f"^{name}$"}, "additionalProperties": schema}
    )


_PROVIDERS: Final = _names_to(
    {"anyOf": [{"$ref": OpenAIKeys}, {"$ref": SimulatedKeys}]}, f"(?!auto$){v.PROVIDER_NAME.pattern}"
)
_ANY: Final = Value(v.anything.read, {"type": "object", "additionalProperties": True})


class ProjectKeys(Keys, title="flowllm.yaml"):
    """flowllm.yaml: what the workflows below its folder share."""

    foreign = "top"
    providers = Key(_PROVIDERS, "Who can be asked.")
    limits = Key(nested(LimitsKeys, "limits"), "Limits of the account that defaults.provider names.")
    defaults = Key(nested(DefaultsKeys, "defaults"), "Options of every LLM step.")
    database = Key(v.plain_text, "Where runs are kept: a database's URL.")
    prices = Key(
        by_name(lambda _: v.price, "prices"),
        "Prices by model, US dollars per million tokens: {input, output, cached_input, cache_write}.",
    )
    budget = Key(nested(BudgetKeys, "budget"), "What each run may spend, with all its resumes; a workflow's keys win.")
    tenants = Key(
        by_name(lambda _: v.rate, "tenants"),
        "Weights by name: who waits gets a share of each account in this proportion (1).",
    )


class WorkflowKeys(Keys, title="flowllm workflow"):
    """A workflow."""

    foreign = "top"
    name = Key(v.plain_text, "The workflow's name (that of its file).")
    description = Key(v.any_text, "What it is for.", "")
    inputs = Key(
        _names_to(v.INPUT), "Inputs: a scalar or a list is a default, nothing is a required text, a mapping declares."
    )
    secrets = Key(
        v.name_list(v.ENVIRONMENT_NAME, "the name of an environment variable"),
        "Environment variables that templates may use as {{ secrets.NAME }}.",
        (),
    )
    defaults = Key(nested(DefaultsKeys, "defaults"), "Options of every LLM step.")
    providers = Key(_PROVIDERS, "Who can be asked.")
    limits = Key(nested(LimitsKeys, "limits"), "Limits of the account that defaults.provider names.")
    budget = Key(nested(BudgetKeys, "budget"), "What a run may spend, with all its resumes.")
    steps = Key(
        Value(v.anything.read, {"type": "object", "minProperties": 1}),
        "What is done, by id; steps start when what they refer to is there.",
        REQUIRED,
    )
    outputs = Key(_ANY, "What the run gives, by name.")
    keep = Key(
        v.condition,
        "With --over: one {{ expression }} on outputs, inputs and steps; where it is false the row has no line in "
        "the output.",
    )
