"""Graphs of steps: that of a workflow, and those of its `workflow` steps, in files or written into the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence as AbstractSequence
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePath

from flowllm.core.fingerprint import canonical, digest
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import StepId
from flowllm.language.advice import Known, check_lookups, check_output, check_saves
from flowllm.language.compiling import Compiler
from flowllm.language.file_keys import WorkflowKeys
from flowllm.language.files import Sources, absolute, beside
from flowllm.language.inputs import parse_inputs
from flowllm.language.kinds import SIMULATED, Inherited, StepScope, check_provider
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, Sequence, kind_of
from flowllm.language.overrides import Overrides, overridden
from flowllm.language.problems import Location, Problems, SourceError, listing
from flowllm.language.project import Sections, check_top, entries_of, merged, parse_defaults, parse_providers, read_root
from flowllm.language.prompt_order import check_prompt_order
from flowllm.language.steps import parse_step
from flowllm.language.template import Names
from flowllm.language.values import any_text, plain_text, text
from flowllm.language.workflow import (
    Body,
    Input,
    Keep,
    LlmBody,
    Output,
    ProviderSettings,
    PythonBody,
    Step,
    Subgraph,
    WorkflowBody,
)

DEEPEST = 10
"""Graphs within graphs."""
MOST_GRAPHS = 1000
"""Graphs that are read for one workflow, each file counted once for what it inherits."""
MOST_STEPS = 1_000_000
"""Steps of a workflow, with those of the graphs within it as often as they stand there."""
_OUTSIDE = "put it into the outer workflow or flowllm.yaml"
_NAMED = 6
"""Steps that an error names."""
_BELONGS = {
    "limits": f"limits belong to the account: {_OUTSIDE}",
    "budget": f"a budget belongs to the run: {_OUTSIDE}",
    "keep": "it is about rows of --over: here, write `when` on the steps",
}


@dataclass(slots=True)
class WorkflowScope:
    """What a workflow and all graphs within it share while they are read."""

    sources: Sources
    overrides: Overrides
    strict: bool = False
    """What is certain to fail when it is rendered is a problem, not only a warning."""
    known: dict[tuple[str, ...], Subgraph | None] = field(default_factory=dict)
    """Graphs of files that were read already, by their path and what they inherit."""
    providers: dict[str, ProviderSettings] = field(default_factory=dict)
    """All that some graph knows, under names that mean one thing in the whole run."""
    secrets: list[str] = field(default_factory=list)
    read: int = 0
    """Graphs that were read so far."""
    modelless: dict[str, list[tuple[Location, str]]] = field(default_factory=dict)
    """Steps that have no model, by what to do about it."""
    hedged: list[tuple[Location, str, Body]] = field(default_factory=list)
    """Steps for which `hedge` is written, and where."""

    @property
    def problems(self) -> Problems:
        """Where problems are added."""
        return self.sources.problems

    def add_modelless(self) -> None:
        """Add one problem for all steps without a model."""
        for hint, found in self.modelless.items():
            where, first = found[0]
            names = [step for _, step in found]
            more = f"{', '.join(f'`{name}`' for name in names[:_NAMED])} and {len(names) - _NAMED:,} more"
            several = f"{len(found):,} steps have no model: {more if len(names) > _NAMED else listing(names)}"
            message = f"the step `{first}` has no model" if len(found) == 1 else several
            self.problems.add(where, message, hint, step=first)

    def register(self, name: str, settings: ProviderSettings, child: str) -> str:
        """The name under which the run knows a graph's own provider."""
        taken, number = name, 1
        while self.providers.setdefault(taken, replace(settings, name=taken)) != replace(settings, name=taken):
            taken = f"{child}/{name}" if number == 1 else f"{child}/{name}/{number}"
            number += 1
        return taken


class GraphReader:
    """Reads one graph: its inputs, steps and outputs. Adds problems."""

    def __init__(self, scope: WorkflowScope, root: Mapping, inherited: Inherited, name: str) -> None:
        self._scope = scope
        self._problems = scope.problems
        self._root = root
        self._inherited = inherited
        self._name = name
        self.top = Sections(root, scope.problems)
        self.default_provider = inherited.default_provider

    @classmethod
    def open(cls, root: Mapping, what: str, scope: WorkflowScope, around: Inherited, *, step: str = "") -> GraphReader:
        """A reader of a graph with its own providers and defaults over those from `around` it. `step`: the step that it
        is the graph of, if it is written out there."""
        problems = scope.problems
        root = overridden(root, scope.overrides, problems, within=around.path)
        check_top(root, WorkflowKeys, what, problems)
        top = Sections(root, problems)
        name = top.get("name", plain_text) or step or PurePath(around.chain[-1]).stem.strip("<>")
        providers = dict(around.providers)
        own = top.get("providers", lambda node: parse_providers(node, problems)) or {}
        if around.depth == 0:
            providers |= own
            scope.providers.update(providers)
        else:
            providers |= {key: replace(one, name=scope.register(key, one, name)) for key, one in own.items()}
        given = top.get("defaults", lambda node: parse_defaults(node, problems))
        defaults = around.defaults if given is None else merged(around.defaults, given)
        named = None if defaults is None else defaults.get("provider")
        if isinstance(named, Scalar):
            try:
                check_provider(named, providers)
            except SourceError as error:
                problems.add_error(error)
        inherited = replace(
            around,
            defaults=defaults,
            providers=providers,
            default_provider=named.text if isinstance(named, Scalar) else around.default_provider,
        )
        return cls(scope, root, inherited, name)

    @property
    def description(self) -> str:
        """What the file says of it."""
        return self.top.get("description", any_text) or ""

    def graph(self) -> Subgraph:
        """The whole graph."""
        problems, inherited = self._problems, self._inherited
        inputs = parse_inputs(self._root.get("inputs"), problems)
        secrets = tuple(secret.text for secret in self.top.get("secrets", WorkflowKeys.secrets.value) or ())
        self._scope.secrets += [secret for secret in secrets if secret not in self._scope.secrets]
        entries = self._entries()
        names = Names(
            inputs=frozenset(inputs), steps=frozenset(entry.key for entry in entries), secrets=frozenset(secrets)
        )
        scope = StepScope(
            names=names,
            sources=self._scope.sources,
            inherited=inherited,
            simulate=self._scope.overrides.provider == SIMULATED,
            subgraph=self._child,
            modelless=self._scope.modelless,
            hedged=self._scope.hedged,
        )
        parsed = {StepId(entry.key): parse_step(entry, scope) for entry in entries}
        steps = {key: step for key, step in parsed.items() if step is not None}
        known = Known(steps=steps, inputs=inputs, strict=self._scope.strict)
        for one in steps.values():
            check_prompt_order(one, inputs, problems)
        for step, templates in scope.templates.items():
            check_lookups(steps.get(StepId(step)), templates, known, problems, name=step)
        outputs = self._outputs(names, known)
        keep = self._keep(replace(names, outputs=frozenset(outputs)))
        check_saves(steps.values(), problems)
        self._check_cycles(scope.waits)
        return Subgraph(
            name=self._name,
            path=absolute(inherited.chain[-1]),
            steps=steps,
            inputs=inputs,
            outputs=outputs,
            keep=keep,
            digest=self._digest(inputs, steps.values()),
            size=self._size(steps.values()),
        )

    def _size(self, steps: Iterable[Step]) -> int:
        """The steps with all within them, which are counted before anybody goes through them."""
        steps = list(steps)
        within = {step.id: step.body.graph.size for step in steps if isinstance(step.body, WorkflowBody)}
        size = len(steps) + sum(within.values())
        if size > MOST_STEPS and self._inherited.depth == 0:
            largest = max(within, key=lambda name: within[name], default=steps[0].id)
            self._problems.add(
                next(entry.where for entry in self._entries() if entry.key == largest),
                f"with the graphs within its steps this workflow has {size:,} steps, "
                f"{within.get(largest, 1):,} of them in `{largest}`; {MOST_STEPS:,} at most can be run",
                "nest fewer graphs, or go through a list of items with `foreach`",
                step=largest,
            )
        return size

    def _entries(self) -> tuple[Entry, ...]:
        node: Node | None = self._root.get("steps")
        if node is None:
            self._problems.add(self._root.where, "a workflow has `steps`, this one has none", "add `steps:`")
        elif not isinstance(node, Mapping):
            hint = (
                "write `id:` before each step, without a dash"
                if isinstance(node, Sequence)
                else "write `id: {prompt: …}`"
            )
            self._problems.add(node.where, f"`steps` is a mapping of ids to steps, this is {kind_of(node)}", hint)
        elif not node.entries:
            self._problems.add(node.where, "`steps` is empty", "add a step: `id: {prompt: …}`")
        else:
            return node.entries
        return ()

    def _outputs(self, names: Names, known: Known) -> dict[str, Output]:
        outputs = {}
        for entry in self.top.get("outputs", lambda node: entries_of(node, "outputs")) or ():
            compiler = Compiler(names=names, sources=self._scope.sources)
            value = compiler.value(entry.value)
            check_output(entry.value, names.steps, self._problems)
            check_lookups(None, compiler.templates, known, self._problems)
            outputs[entry.key] = Output(name=entry.key, value=value, edges=compiler.edges(), uses=compiler.uses())
        return outputs

    def _keep(self, names: Names) -> Keep | None:
        node = self.top.get("keep", text)
        if node is None:
            return None
        compiler = Compiler(names=names, sources=self._scope.sources)
        when = compiler.text(node, condition=True)
        return None if when is None else Keep(when=when, edges=compiler.edges(), uses=compiler.uses())

    def _check_cycles(self, waits: AbstractMapping[str, tuple[Location, list[str]]]) -> None:
        for cycle in cycles({step: after for step, (_, after) in waits.items()}):
            path = " → ".join(f"{step} (line {waits[step][0].line})" for step in cycle)
            self._problems.add(
                waits[cycle[0]][0],
                f"these steps wait for each other: {path} → {cycle[0]}",
                "an arrow points at the step that is waited for; take one of them away",
                step=cycle[0],
            )

    # graphs within

    def _child(self, node: Scalar | Mapping, compiler: Compiler) -> Subgraph | None:
        """The graph of a step of this one."""
        if self._inherited.depth >= DEEPEST:
            message = f"graphs are nested to a depth of {DEEPEST} at most, and this one is deeper"
            raise SourceError(node.where, message, "flatten some of them")
        if self._scope.read >= MOST_GRAPHS:
            message = f"there are more than {MOST_GRAPHS:,} graphs within this workflow"
            raise SourceError(
                node.where, message, "use one file, with the same defaults, where the same graph is meant"
            )
        if isinstance(node, Mapping):
            return self._read(node, f"the graph of `{compiler.step}`", compiler.step, self._inherited.chain)
        name = beside(node.where.file, node.text)
        chain = (*self._inherited.chain, name)
        if absolute(name) in {absolute(one) for one in self._inherited.chain}:
            message = f"this workflow would be within itself: {' → '.join(chain)}"
            raise SourceError(node.where, message, "a workflow cannot be a step of itself, however far down")
        key = (absolute(name), *self._inherits(), *self._settings(f"{self._inherited.path}{compiler.step}."))
        if key not in self._scope.known:
            before = len(self._problems)
            self._scope.known[key] = self._file(node, name, chain, compiler.step)
            if len(self._problems) > before:
                self._scope.known[key] = None
        return self._scope.known[key]

    def _settings(self, path: str) -> tuple[str, ...]:
        """What `--set` changes within a step."""
        settings = self._scope.overrides.settings.items()
        return tuple(f"{key[len(path) :]}={value}" for key, value in settings if key.startswith(path))

    def _inherits(self) -> tuple[str, ...]:
        """What a file would inherit here, as text."""
        inherited = self._inherited
        providers = {name: settings.name for name, settings in inherited.providers.items()}
        return (plain(inherited.defaults), canonical(providers), inherited.default_provider, str(inherited.depth))

    def _file(self, node: Scalar, name: str, chain: tuple[str, ...], step: str) -> Subgraph | None:
        self._scope.sources.read_named(node.text, node.where)
        root = read_root(name, "a workflow", self._scope.sources, self._problems)
        return None if root is None else self._read(root, "a workflow", step, chain)

    def _read(self, root: Mapping, what: str, step: str, chain: tuple[str, ...]) -> Subgraph:
        inherited, written = self._inherited, chain == self._inherited.chain
        self._scope.read += 1
        for key, belongs in _BELONGS.items():
            entry = root.entry(key)
            if entry is not None:
                message = f"`{key}` cannot stand in a workflow that is a step of another"
                self._problems.add(entry.where, message, belongs)
        around = replace(inherited, chain=chain, depth=inherited.depth + 1, path=f"{inherited.path}{step}.")
        reader = GraphReader.open(root, what, self._scope, around, step=step if written else "")
        reader.top.get("description", any_text)
        return reader.graph()

    # its digest

    def _digest(self, inputs: AbstractMapping[str, Input], steps: Iterable[Step]) -> str:
        """SHA-256 of what decides what the graph does.

        It is of the inputs without their descriptions; of `steps`, `outputs` and the defaults in force as they are parsed,
        without comments and places; of the texts of prompts, schemas and functions in files; of the digests of graphs
        within it; and of the settings of the providers in force, without their limits. Command-line overrides count as written.
        """
        parts = [repr(replace(declared, description="")) for declared in inputs.values()]
        parts += [plain(self._root.get(key)) for key in ("steps", "outputs")]
        parts += [plain(keep)] if (keep := self._root.get("keep")) is not None else []
        parts += [plain(self._inherited.defaults), self._inherited.default_provider]
        for step in steps:
            parts += _texts(step, self._scope.sources.texts)
        providers = self._inherited.providers
        parts += [repr(replace(providers[name], name=name, limits=None)) for name in sorted(providers)]
        return digest("\n".join(parts).encode(errors="backslashreplace").decode())


def _texts(step: Step, files: AbstractMapping[str, str]) -> Iterator[str]:
    """What a step has from files."""
    body = step.body
    if isinstance(body, LlmBody):
        yield from (template.source for template in (body.prompt, body.system) if template is not None)
        if body.output is not None:
            yield canonical(body.output.schema)
    elif isinstance(body, PythonBody) and body.file is not None:
        yield from (files.get(file, "") for file in (body.file, *body.helpers))
    elif isinstance(body, WorkflowBody):
        yield body.graph.digest


def plain(node: Node | None) -> str:
    """A node as text, without comments and places."""
    if node is None:
        return "-"
    if isinstance(node, Mapping):
        return "{" + ",".join(f"{entry.key!r}:{plain(entry.value)}" for entry in node.entries) + "}"
    if isinstance(node, Scalar):
        return f"{type(node.value).__name__} {node.text!r}"
    return "[" + ",".join(plain(item) for item in node.items) + "]"


# steps that wait for each other


def cycles(edges: AbstractMapping[str, AbstractSequence[str]]) -> list[list[str]]:
    """One shortest cycle of each strongly connected component, each node once, in order of the graph.

    `edges` gives for each node those it waits for; names that are not nodes are left out, and so are nodes
    that wait for themselves.
    """
    graph = {node: [n for n in after if n in edges and n != node] for node, after in edges.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return _shortest(graph)
    return []


def _shortest(graph: AbstractMapping[str, AbstractSequence[str]]) -> list[list[str]]:
    # networkx takes half a second to import, which only a graph that has cycles should pay
    import networkx as nx  # noqa: PLC0415

    whole: nx.DiGraph[str] = nx.DiGraph()
    whole.add_edges_from((node, needed) for node, after in graph.items() for needed in after)
    rank = {node: place for place, node in enumerate(graph)}
    found = []
    for component in nx.strongly_connected_components(whole):
        if len(component) > 1:
            start = min(component, key=rank.__getitem__)
            towards = whole.subgraph(component).reverse()
            steps = nx.single_source_shortest_path_length(towards, start)
            following = {after: before for before, after in nx.bfs_edges(towards, start)}
            cycle = [start, min((node for node in graph[start] if node in component), key=steps.__getitem__)]
            while (node := following[cycle[-1]]) != start:
                cycle.append(node)
            found.append(cycle)
    return sorted(found, key=lambda cycle: rank[cycle[0]])
