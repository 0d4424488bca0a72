"""Tables of keys of a workflow's file and of flowllm.yaml, but for those of steps: see step_keys.py."""

from __future__ import annotations

from typing import Any, Final

from flowllm.language import values as v
from flowllm.language.keys import REQUIRED, Key, Keys, Value, by_name, listed, nested
from flowllm.language.problems import Location, SourceError, listing
from flowllm.language.step_keys import DefaultsKeys


class EnforceKeys(Keys, title="limits of a simulated server"):
    """What a simulated server allows."""

    foreign = "limits"
    max_concurrent = Key(v.count, "Requests in flight at the same time (an account: 10).")
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

    windows = Key(listed(WindowKeys, "windows"), "Strict windows, such as {requests: 10, per: 1s}; all of them hold.")


def _check_model(name: str, where: Location) -> None:
    if not name.strip():
        raise SourceError(where, "expected a name, found nothing")
    if v.is_template(name):
        raise SourceError(where, "a template cannot stand here", "write the name itself")


class LimitsKeys(ModelLimitsKeys, title="limits"):
    """What an account allows."""

    adaptive = Key(v.boolean, "Learns from headers and 429s, never above what is written (true).")
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
    error_rate = Key(v.share, "Share of requests that fail with a 500.", 0.0)
    rate_limit_rate = Key(v.share, "Share of requests that get a 429.", 0.0)
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
