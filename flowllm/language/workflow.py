"""A checked workflow: what the parser gives and everything after it builds on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowllm.core.errors import Problem
from flowllm.core.records import dataclass, field
from flowllm.core.request import OutputFormat
from flowllm.core.types import (
    Budget,
    CachePolicy,
    Json,
    Limits,
    OnError,
    OnTruncated,
    Part,
    Priority,
    Resources,
    RetryPolicy,
    StepId,
    StepKind,
    Tolerance,
)
from flowllm.language.literals import kept
from flowllm.language.problems import Location
from flowllm.language.template import Template, ValueTemplate


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
    """How a schema travels: json_schema, json_object_schema, json_object or prompt."""
    max_tokens_field: str | None = None
    limits: Limits | None = None
    seed: int = 0
    latency: float = 0.0
    """Median time of a simulated answer."""
    latency_sigma: float = 0.0
    """Sigma of the log-normal distribution of that time."""
    slots: int | None = None
    """Requests that are served at the same time; None: any number."""
    error_rate: float = 0.0
    """Share of simulated requests that fail with a 500."""
    rate_limit_rate: float = 0.0
    """Share of simulated requests that get a 429."""
    hang_rate: float = 0.0
    """Share of simulated requests that are never answered."""
    prompt_cache: bool = False
    """The simulated server keeps the beginnings of prompts."""
    prefill: float = 0.0
    """Time in which it reads 1,000 tokens of a prompt that it does not keep."""
    enforce: Limits | None = None
    """A simulated server's own limits: requests above them get a 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is asked: a fallback's model, on the step's provider where none is named."""

    model: ValueTemplate
    provider: ValueTemplate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a step does: the part of it that is of its own kind."""

    @property
    def harmless(self) -> bool:
        """It changes nothing, so that it is tried again unless told otherwise."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmBody(Body):
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
    images: ValueTemplate | None = None
    """Gives a URL, a path relative to `folder`, or a list of them; only with `prompt`."""
    folder: str = ""
    """Absolute path of the folder of the file in which the step stands."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names of providers that mean another one here: a sub-workflow's own, as Workflow.providers calls them."""

    @property
    def harmless(self) -> bool:
        """It is asked again."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedBody(Body):
    """A step that asks for embeddings."""

    provider: ValueTemplate
    model: ValueTemplate
    input: ValueTemplate
    """Gives a text or a list of texts; the output is a vector or a list of vectors."""
    dimensions: ValueTemplate | None = None
    params: ValueTemplate | None = None
    """Gives a mapping of anything else that the API takes."""
    batch_size: int = 100
    """The most texts in one request."""
    batch_wait: float = 0.05
    """Seconds that a text waits at most for others to share its request."""
    fallback: tuple[Target, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    """As in LlmBody."""

    @property
    def harmless(self) -> bool:
        """It is asked again."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBody(Body):
    """A step that sends one HTTP request. `url`, `query` and `headers` may hold secrets."""

    url: Template
    method: str = "GET"
    headers: ValueTemplate | None = None
    """Gives a mapping of texts."""
    query: ValueTemplate | None = None
    """Gives a mapping; a list means several parameters of that name."""
    json: ValueTemplate | None = None
    """Gives the body as JSON; either this or `body`."""
    body: Template | None = None
    allow_private: bool = False
    """Private, loopback and link-local addresses may be asked."""

    @property
    def harmless(self) -> bool:
        """A request that only reads is sent again."""
        return self.method in {"GET", "HEAD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellBody(Body):
    """A step that runs a command. `env` may hold secrets."""

    command: str
    """As written: never a template."""
    stdin: Template | None = None
    env: ValueTemplate | None = None
    """Gives a mapping of texts, added to the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowBody(Body):
    """A step that is a graph of its own."""

    graph: Subgraph
    arguments: ValueTemplate | None = None
    """`with`: gives a mapping of inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonBody(Body):
    """A step that calls a function."""

    function: str
    module: str | None = None
    """An importable module's name, or"""
    file: str | None = None
    """a file's absolute path; its text is in Workflow.files under this very path."""
    helpers: tuple[str, ...] = ()
    """Absolute paths of files in the folder of `file` that it imports, directly or not; in Workflow.files too."""
    arguments: ValueTemplate | None = None
    """Gives a mapping of keyword arguments."""
    asks: Asks | None = None
    """It is handed `ask`, which asks a model."""
    resources: Resources | None = None
    """It is called on a node of a cluster that has these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """What the calls of a function's `ask` begin with: the defaults of prompt steps."""

    step: Step
    """A prompt step whose `messages` and `sample` are the values of these names."""
    system: Template | None = None
    """The default system message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueBody(Body):
    """A step that computes a value."""

    value: ValueTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A data set that a foreach reads as a stream."""

    path: Template
    """Gives a path relative to `folder`, or `-` for standard input; under `many` a pattern of paths."""
    folder: str
    """Absolute path of the folder of the file in which the step stands."""
    format: str | None = None
    """jsonl, json, csv or lines; None: by the file's ending."""
    delimiter: str | None = None
    """Of CSV; None: a tab for .tsv, else as the header shows."""
    limit: int | None = None
    """Only so many first items."""
    many: bool = False
    """Each file that matches is one item, {path, text}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """When a foreach has enough."""

    when: Template
    """A condition on `output`, `item` (also by its own name), `index` and `accepted`."""
    count: ValueTemplate
    """Gives how many are wanted, a whole number from 1."""
    overshoot: float = 1.0
    """At most ceil(overshoot x still needed) items are in flight; at least 1."""

    @property
    def ordered(self) -> bool:
        """`when` looks at `accepted`: it can be answered in input order only."""
        return "accepted" in self.when.names


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreach:
    """That a step runs once for each item of a list or a data set. One of `items`, `file`, `matrix` is set."""

    items: ValueTemplate | None = None
    """Gives a list."""
    file: DataFile | None = None
    matrix: Mapping[str, ValueTemplate | DataFile] | None = None
    """Every combination, as a mapping with these keys; the last key changes fastest."""
    name: str = "item"
    """`as`: what templates call the item."""
    max_concurrent: int | None = None
    max_failed: int | None = None
    """The step fails when more items than this have failed."""
    max_failed_share: float | None = None
    """The same as a share of all items, 0 to 1."""
    accept: Accept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, its options resolved against the defaults."""

    id: StepId
    kind: StepKind
    body: Body
    where: Location
    edges: Mapping[StepId, Tolerance] = field(default_factory=dict)
    """The steps it waits for: all references of its templates, and `needs`."""
    uses: Mapping[StepId, frozenset[Part]] = field(default_factory=dict)
    """What its templates look at of each of them. A whole output that python is handed, or that `foreach` goes
    through, as `{{ x }}` alone is not in it: those are read as a stream."""
    when: Template | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float = 1800.0
    """Seconds for all attempts together, from the first admission."""
    cache: CachePolicy = field(default_factory=CachePolicy)
    priority: Priority = Priority.NORMAL
    on_error: OnError = OnError.FAIL
    foreach: Foreach | None = None
    save: Template | None = None
    """Gives the path, relative to the working directory, of a file for the output; once an item under foreach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of a workflow."""

    name: str
    value: ValueTemplate
    edges: Mapping[StepId, Tolerance]
    uses: Mapping[StepId, frozenset[Part]] = field(default_factory=dict)
    """As in Step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Which rows of `--over` have a line in the output."""

    when: Template
    """A condition on `outputs` and on what outputs see."""
    edges: Mapping[StepId, Tolerance]
    uses: Mapping[StepId, frozenset[Part]] = field(default_factory=dict)
    """As in Step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgraph:
    """Steps with inputs and outputs of their own: a workflow without its account, or one inside of a step."""

    name: str
    path: str
    """Absolute path of its file."""
    steps: Mapping[StepId, Step]
    """In the order of the file; acyclic."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    keep: Keep | None = None
    digest: str = ""
    """SHA-256 of everything in the files that decides what it does: its text, the files it reads, defaults,
    providers and sub-workflows in it. Part of the key of the step."""
    size: int = 0
    """Its steps, with those of the graphs within it as often as they stand there; items not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow(Subgraph):
    """A checked workflow: nothing in it can fail for a reason that the file alone shows."""

    description: str = ""
    secrets: tuple[str, ...] = ()
    """Names of environment variables."""
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    """Those of the workflow and of flowllm.yaml, and the built-in openai and simulated."""
    default_provider: str = "openai"
    limits: Limits | None = None
    """Of the account that default_provider names."""
    budget: Budget | None = None
    """Of a run with all its resumes."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Absolute path to text, for the workflow and every file it reads: enough to load it again."""
    literals: tuple[str, ...] = field(default=(), repr=False)
    """Secrets that are written out in its files, in each way in which they are written."""
    warnings: tuple[Problem, ...] = ()
    """What may not be what was meant, in the order of places."""

    @property
    def snapshot(self) -> Mapping[str, str]:
        """Its files as a run keeps them, without the secrets that are written out in them."""
        return kept(self.files)
