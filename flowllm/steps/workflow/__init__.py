"""`workflow` steps: another graph as one step, which the runtime runs itself."""

from __future__ import annotations

from flowllm.core.types import StepKind
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.file_keys import FlowKeys
from flowllm.language.keys import REQUIRED, Key
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.nodes import Mapping, Scalar
from flowllm.language.problems import SourceError, listing, nearest
from flowllm.language.workflow import Subgraph, WorkflowBody
from flowllm.steps.registry import StepKindPackage


class WorkflowStepKeys(FlowKeys, title="workflow step"):
    """Another graph as one step."""

    workflow = Key(sv.graph, "./other.yaml, or the graph itself: {inputs, steps, outputs}.", REQUIRED)
    with_ = Key(sv.arguments_or_template, "Its inputs, by name, or one template that gives them.")
    on_error = Key(v.on_error, "fail: the run fails; continue: dependents see the step as skipped.")


def build(keys: WorkflowStepKeys, context: StepContext) -> WorkflowBody | None:
    """A step that is a graph."""
    arguments = context.compiler.optional(keys.with_)
    graph = context.scope.subgraph(keys.workflow, context.compiler)
    if graph is None:
        return None
    if not isinstance(keys.with_, Scalar):
        _check_arguments(keys.with_, graph, context)
    return WorkflowBody(graph=graph, arguments=arguments)


def _check_arguments(given: Mapping | None, graph: Subgraph, context: StepContext) -> None:
    """`with` names inputs that there are, and all that have no default."""
    keys = {} if given is None else given.keys()
    for key, place in keys.items():
        if key not in graph.inputs:
            hint = nearest(key, graph.inputs) or f"it has {listing(list(graph.inputs)) if graph.inputs else 'none'}"
            context.add(SourceError(place, f"the workflow `{graph.name}` has no input `{key}`", hint))
    missing = [name for name, declared in graph.inputs.items() if declared.required and name not in keys]
    if missing:
        where, hint = context.where if given is None else given.where, f"write `with: {{{missing[0]}: …}}`"
        context.add(SourceError(where, f"the workflow `{graph.name}` needs {listing(missing)}", hint))


KIND = StepKindPackage(
    specs=(
        StepKindSpec(key="workflow", kind=StepKind.WORKFLOW, keys=WorkflowStepKeys, build=build, templates=("with",)),
    )
)
