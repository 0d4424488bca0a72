"""Tables of keys that steps and accounts share: retries, limits, budgets, providers, inputs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flowllm.language import fields as f
from flowllm.language.nodes import Mapping, kind_of
from flowllm.language.problems import Wrong
from flowllm.language.readers import items, named


class Shape(BaseModel):
    """A table of keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        defer_build=True,  # a workflow has steps of few kinds, and each table takes some milliseconds to build
    )

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
    jitter: f.Jitter = Field("full", description="full: each wait is drawn evenly from 0 to the computed one.")
    attempt_timeout: f.Duration = Field(300.0, description="The longest that one attempt may take.")


class EnforceShape(Shape):
    """What a simulated server allows."""

    max_concurrent: f.Count | None = Field(None, description="Requests in flight at the same time (an account: 10).")
    requests_per_minute: f.Rate | None = Field(None, description="Requests a minute.")
    tokens_per_minute: f.Rate | None = Field(None, description="Tokens a minute, input and output together.")
    burst: f.Count | None = Field(
        None, description="Requests that may go at once after a pause (a sixtieth of requests_per_minute, at least 1)."
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
    stop_at_error_rate: f.Share | None = Field(None, description="A run in which a larger share of nodes failed ends.")
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
    base_url: f.BaseUrl | None = Field(None, description="Address of the API (OPENAI_BASE_URL or OpenAI's own).")
    api_key_env: f.Variable | None = Field(None, description="Environment variable that holds the key.")
    api: f.Api = Field("chat", description="chat: Chat Completions; responses: the Responses API.")
    headers: f.Headers = Field(
        default_factory=dict, description="Sent with every request; ${NAME} is an environment variable."
    )
    structured: f.Structured = Field(
        "json_schema",
        description="How a JSON Schema travels to the server: as OpenAI has it, beside json_object, or in the prompt.",
    )
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
    enforce: EnforceShape | None = Field(None, description="The server's own limits: requests above them get a 429.")
    limits: LimitsShape | None = Field(None, description="Limits of this account.")


class InputShape(Shape):
    """An input's declaration."""

    type: f.InputType | None = Field(None, description="What values it takes (that of the default, else string).")
    default: f.Anything | None = Field(None, description="The value if none is given; without it, one must be given.")
    enum: f.Anything | None = Field(None, description="The values it may have.")
    description: f.AnyText = Field("", description="What it is for.")
