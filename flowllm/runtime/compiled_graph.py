"""What all runs of one graph have in common, worked out once: a sub-workflow may be run for each of 50,000 items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flowllm.core.types import NodeId, OnError, Part, StepId, StepKind
from flowllm.language.workflow import EmbedBody, Output, PythonBody, Step, Subgraph, WorkflowBody
from flowllm.runtime.graph_state import GraphTopology


class CompiledGraph:
    """One graph, ready to be run any number of times."""

    def __init__(self, graph: Subgraph, steps: Mapping[StepId, Step] | None = None) -> None:
        """`steps` are those to run, where that is not all of them."""
        self.source = graph
        self.steps = graph.steps if steps is None else steps
        self.outputs: Mapping[str, Output] = graph.outputs
        self.topology = GraphTopology(
            {
                NodeId(name): {NodeId(need): how for need, how in step.edges.items()}
                for name, step in self.steps.items()
            },
            forgiven=[
                NodeId(name)
                for name, step in self.steps.items()
                if step.on_error is OnError.CONTINUE and step.foreach is None
            ],
        )
        self.costly = any(step.kind is not StepKind.VALUE or step.foreach for step in self.steps.values())
        """Something in it is worth to be found again by a resume."""
        self._uses: dict[str, set[Part]] = {}
        uses = [one.uses for one in self.steps.values()] + [one.uses for one in self.outputs.values()]
        if graph.keep is not None:
            uses.append(graph.keep.uses)
        for used in uses:
            for step, parts in used.items():
                self._uses.setdefault(step, set()).update(parts)
        self._streamed = set(self._handed_on())

    def looks_at(self, step: StepId, part: Part) -> bool:
        """Whether some template looks at that part of a step."""
        return part in self._uses.get(step, ())

    def streams(self, step: StepId) -> bool:
        """Whether something goes through the output of a foreach without holding it."""
        return step in self._streamed

    def _handed_on(self) -> Iterator[str]:
        for step in self.steps.values():
            yield from handed_on(step).values()
            items = None if step.foreach is None else step.foreach.items
            bare = getattr(None if items is None else items.tree, "bare", None)
            if bare is not None:
                yield bare


def handed_on(step: Step) -> dict[str, StepId]:
    """The arguments of a python step that are whole outputs of other steps, as they are."""
    if not isinstance(step.body, PythonBody) or step.body.arguments is None:
        return {}
    tree = step.body.arguments.tree
    if not isinstance(tree, dict):
        return {}
    return {name: leaf.bare for name, leaf in tree.items() if getattr(leaf, "bare", None) is not None}


def texts_together(step: Step) -> int:
    """How many texts of a step, or of one within it, share a request; 0 where none is embedded."""
    if isinstance(step.body, WorkflowBody):
        return max(map(texts_together, step.body.graph.steps.values()), default=0)
    return step.body.batch_size if isinstance(step.body, EmbedBody) else 0
