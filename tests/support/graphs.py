"""Small graphs for tests."""

from __future__ import annotations

from flowllm.core.types import StepId, StepKind, Tolerance
from flowllm.explain.graph import Edge, Graph


def graph_of(*edges: tuple[str, str] | tuple[str, str, Tolerance], steps: str = "", name: str = "g") -> Graph:
    """A graph of prompts: `steps` are named with blanks between, then the ends of edges in their order."""
    ids = dict.fromkeys([*steps.split(), *(end for edge in edges for end in edge[:2])])
    return Graph(
        name=name,
        kinds={StepId(step): StepKind.PROMPT for step in ids},
        edges=tuple(
            Edge(
                before=StepId(edge[0]),
                after=StepId(edge[1]),
                tolerance=edge[2] if len(edge) > 2 else Tolerance.REQUIRED,
            )
            for edge in edges
        ),
    )


def blog(name: str = "blog") -> Graph:
    """One of everything: kinds, a join, an optional edge, one that takes any outcome."""
    graph = graph_of(
        ("headline", "intro"),
        ("headline", "outline"),
        ("intro", "outline"),
        ("keywords", "clean"),
        ("outline", "post"),
        ("clean", "post", Tolerance.OPTIONAL),
        ("keywords", "score", Tolerance.ANY),
        steps="headline keywords intro outline clean score post",
        name=name,
    )
    kinds = {**graph.kinds, StepId("clean"): StepKind.PYTHON, StepId("score"): StepKind.VALUE}
    return Graph(name=graph.name, kinds=kinds, edges=graph.edges)


NESTED = """
steps:
  topics: {value: [a, b]}
  posts:
    foreach: "{{ topics }}"
    workflow:
      inputs: {topic: }
      steps:
        headline: {value: "{{ inputs.topic }}"}
        body: {foreach: "{{ headline }}", value: "{{ item }}"}
      outputs: {text: "{{ body }}"}
    with: {topic: "{{ item }}"}
"""
"""A workflow of a `workflow` step that runs once an item."""
