"""The registry of step kinds: a kind brings the key that names it, a table of all its keys, and a builder.

A kind is registered when its package is imported, in the order in which the documentation names them:

    class EchoKeys(StepKeys, title="echo step"):
        '''Gives a text back.'''

        echo = Key(values.written, "The text.", REQUIRED)

    def build(keys: EchoKeys, context: StepContext) -> EchoBody | None:
        text = context.compiler.text(keys.echo)
        return None if text is None else EchoBody(text=text)

    KIND = StepKindPackage(specs=(StepKindSpec(key="echo", kind=…, keys=EchoKeys, build=build, templates=("echo",)),), runner=…)

A builder adds problems to `context.problems` and then may return None, or raises SourceError for one problem.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from flowllm.core.records import dataclass, field
from flowllm.core.types import StepKind
from flowllm.language import nodes
from flowllm.language.compiling import Compiler
from flowllm.language.files import Sources
from flowllm.language.keys import Keys
from flowllm.language.problems import Location, Problems, SourceError, nearest
from flowllm.language.template import Names, Template
from flowllm.language.values import is_template
from flowllm.language.workflow import Body, ProviderSettings, Subgraph

K = TypeVar("K", bound=Keys)
AUTO: Final = "auto"
OPENAI: Final = "openai"
SIMULATED: Final = "simulated"
BUILT_IN: Final = (OPENAI, SIMULATED)


def check_provider(name: nodes.Scalar, providers: Iterable[str]) -> None:
    """Raises SourceError if a text names a provider that does not exist."""
    known = [*providers, AUTO]
    if not is_template(name.text) and name.text not in known:
        raise SourceError(name.where, f"there is no provider `{name.text}`", nearest(name.text, known))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What holds in a graph: what it has from around it, with its own over that."""

    defaults: nodes.Mapping | None
    providers: Mapping[str, ProviderSettings]
    """By the names that its steps use."""
    default_provider: str = OPENAI
    chain: tuple[str, ...]
    """Shown names of the files that it is in, the outermost first."""
    depth: int = 0
    path: str = ""
    """The steps that it is within, for `--set`: `post.`"""

    @property
    def aliases(self) -> dict[str, str]:
        """Names of providers by which the run knows another one, each with the name that the run has for it."""
        return {name: settings.name for name, settings in self.providers.items() if settings.name != name}

    def defaults_for(self, keys: Container[str]) -> nodes.Mapping | None:
        """Those of the defaults that have one of these keys."""
        if self.defaults is None:
            return None
        entries = tuple(entry for entry in self.defaults.entries if entry.key in keys)
        return nodes.Mapping(where=self.defaults.where, entries=entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScope:
    """What the steps of one graph are read against."""

    names: Names
    sources: Sources
    inherited: Inherited
    simulate: bool
    """Every call goes to `simulated`, whatever the steps say."""
    subgraph: Callable[[nodes.Scalar | nodes.Mapping, Compiler], Subgraph | None]
    """The graph of a `workflow` step: given what stands under that key, the name of a file or a graph written
    out. Adds problems; then the result is None."""
    templates: dict[str, list[Template]] = field(default_factory=dict)
    """Those of each step, filled in step by step."""
    modelless: dict[str, list[tuple[Location, str]]] = field(default_factory=dict)
    """Steps that have no model, by what to do about it: filled in step by step, reported once for all."""
    hedged: list[tuple[Location, str, Body]] = field(default_factory=list)
    """Steps for which `hedge` is written, and where: filled in step by step."""
    waits: dict[str, tuple[Location, list[str]]] = field(default_factory=dict)
    """Each step's place and what it waits for, as far as could be read: filled in step by step, for cycles."""

    @property
    def problems(self) -> Problems:
        """Where problems are added."""
        return self.sources.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a builder is given besides the values of the keys."""

    id: str
    where: Location
    node: nodes.Mapping
    """The step's keys over the defaults, each with its place."""
    compiler: Compiler
    scope: StepScope

    @property
    def problems(self) -> Problems:
        """Where problems are added."""
        return self.compiler.problems

    def add(self, error: SourceError) -> None:
        """Add a problem of this step."""
        self.problems.add_error(error, step=self.id)

    def check_provider(self, name: nodes.Scalar) -> None:
        """Add a problem if a text names a provider that does not exist."""
        try:
            check_provider(name, self.scope.inherited.providers)
        except SourceError as error:
            self.add(error)

    def provider(self, named: nodes.Scalar | None) -> nodes.Scalar:
        """The text that names the step's provider: its own, or the default."""
        if named is not None:
            self.check_provider(named)
        if self.scope.simulate:
            return nodes.constant(SIMULATED, self.where)
        return named or nodes.constant(self.scope.inherited.default_provider, self.where)

    def model(self, named: nodes.Scalar | None, provider: nodes.Scalar, hint: str) -> nodes.Scalar:
        """The text that names the step's model; `hint` is what to do where there is none."""
        settings = self.scope.inherited.providers.get(provider.text)
        if named is None and (settings is None or settings.type != SIMULATED):
            self.scope.modelless.setdefault(hint, []).append((self.where, self.id))
        return named or nodes.constant(SIMULATED, self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKindSpec(Generic[K]):
    """One kind of step."""

    key: str
    """The key that names it: a step has exactly one of all kinds."""
    kind: StepKind
    keys: type[K]
    build: Callable[[K, StepContext], Body | None]
    defaults: frozenset[str] = frozenset()
    """Those of `defaults` that hold for it."""
    templates: tuple[str, ...] = ()
    """Its own keys in which templates may stand."""
    cached: bool = False
    """Its results are kept and used again unless the step says otherwise."""


_KINDS: dict[str, StepKindSpec[Any]] = {}


def register(spec: StepKindSpec[Any]) -> None:
    """Add a kind. Raises ValueError for a key that another kind has."""
    if _KINDS.setdefault(spec.key, spec) is not spec:
        raise ValueError(f"two kinds of steps have the key `{spec.key}`")


def kinds() -> Mapping[str, StepKindSpec[Any]]:
    """All kinds by their keys, in the order of registration."""
    return _KINDS


def all_keys() -> dict[str, None]:
    """The keys that some kind of step has."""
    return {key: None for spec in _KINDS.values() for key in spec.keys.table}
