"""A checked workflow: what the parser gives and everything after it builds on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowllm.types import (
    Budget,
    CachePolicy,
    Limits,
    OnError,
    OnTruncated,
    Priority,
    RetryPolicy,
    StepId,
    StepKind,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowllm.request import OutputFormat
    from flowllm.spec.reference import Location, Tolerance
    from flowllm.spec.template import Template, ValueTemplate
    from flowllm.types import Json


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""No default: null is a value of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a workflow."""

    name: str
    type: str = "string"
    """string, integer, number, boolean, array or object."""
    default: Json | _Missing = MISSING
    enum: tuple[Json, ...] | None = None
    description: str = ""

    @property
    def required(self) -> bool:
        """It has no default."""
        return self.default is MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One entry of `providers`, or a built-in one. Times are seconds, shares are 0 to 1."""

    name: str
    type: str
    """openai or simulated."""
    base_url: str | None = None
    api_key_env: str | None = None
    api: str = "chat"
    """chat: Chat Completions; responses: the Responses API."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """As written: `${NAME}` is an environment variable."""
    structured: str = "json_schema"
    """How a schema travels: json_schema, json_object or prompt."""
    max_tokens_field: str | None = None
    limits: Limits | None = None
    seed: int = 0
    latency: float = 0.0
    """Median time of a simulated answer."""
    latency_sigma: float = 0.0
    """Sigma of the log-normal distribution of that time."""
    error_rate: float = 0.0
    """Share of simulated requests that fail with a 500."""
    rate_limit_rate: float = 0.0
    """Share of simulated requests that get a 429."""
    enforce: Limits | None = None
    """A simulated server's own limits: requests above them get a 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is asked: a fallback's model, on the step's provider where none is named."""

    model: ValueTemplate
    provider: ValueTemplate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmBody:
    """A step that asks a model."""

    provider: ValueTemplate
    """Gives a provider's name, or `auto`."""
    model: ValueTemplate
    prompt: Template | None = None
    system: Template | None = None
    messages: ValueTemplate | None = None
    """Either `prompt` or `messages` is set."""
    params: ValueTemplate | None = None
    """Gives a mapping: max_tokens, temperature, top_p, seed, stop and the author's `params`, merged."""
    output: OutputFormat | None = None
    sample: ValueTemplate | None = None
    samples: int | None = None
    fallback: tuple[Target, ...] = ()
    on_truncated: OnTruncated = OnTruncated.WARN


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonBody:
    """A step that calls a function."""

    function: str
    module: str | None = None
    """An importable module's name, or"""
    file: str | None = None
    """a file's absolute path; its text is in Workflow.files under this very path."""
    arguments: ValueTemplate | None = None
    """Gives a mapping of keyword arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueBody:
    """A step that computes a value."""

    value: ValueTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, its options resolved against the defaults."""

    id: StepId
    kind: StepKind
    body: LlmBody | PythonBody | ValueBody
    where: Location
    edges: Mapping[StepId, Tolerance] = field(default_factory=dict)
    """The steps it waits for: all references of its templates, and `needs`."""
    when: Template | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float = 1800.0
    """Seconds for all attempts together, from the first admission."""
    cache: CachePolicy = field(default_factory=CachePolicy)
    priority: Priority = Priority.NORMAL
    on_error: OnError = OnError.FAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of a workflow."""

    name: str
    value: ValueTemplate
    edges: Mapping[StepId, Tolerance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A checked workflow: nothing in it can fail for a reason that the file alone shows."""

    name: str
    path: str
    """Absolute path of its file."""
    steps: Mapping[StepId, Step]
    """In the order of the file; acyclic."""
    description: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names of environment variables."""
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    """Those of the workflow and of flowllm.yaml, and the built-in openai and simulated."""
    default_provider: str = "openai"
    limits: Limits | None = None
    """Of the account that default_provider names."""
    budget: Budget | None = None
    """Of a run with all its resumes."""
    outputs: Mapping[str, Output] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Absolute path to text, for the workflow and every file it reads: enough to load it again."""
