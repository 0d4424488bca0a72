from __future__ import annotations

from flowllm.core.types import Part
from flowllm.runtime.graph_state import CompiledGraph, handed_on, texts_together
from tests.support.workflows import workflow

FLOW = """
    defaults: {provider: simulated, model: m}
    steps:
      seen: {foreach: [1, 2], prompt: "{{ item }}"}
      counted: {foreach: [1, 2], prompt: "{{ item }}"}
      walked: {foreach: [1, 2], prompt: "{{ item }}"}
      handed: {foreach: [1, 2], prompt: "{{ item }}", on_error: continue}
      forgiven: {prompt: x, on_error: continue}
      a: {value: "{{ seen | length }} {{ steps.counted.counts.total }} {{ steps.counted.rows }}"}
      b: {foreach: "{{ walked }}", value: "{{ item }}"}
      c: {python: "./t.py:f", with: {all: "{{ handed }}", text: "{{ seen }}!"}}
    """
FILES = {"t.py": "def f(all, text): return 1"}


def test_only_what_a_template_looks_at_is_held() -> None:
    compiled = CompiledGraph(workflow(FLOW, files=FILES))
    assert compiled.looks_at("seen", Part.OUTPUT)
    assert not compiled.looks_at("counted", Part.OUTPUT)
    assert compiled.looks_at("counted", Part.ROWS)
    assert not compiled.looks_at("seen", Part.ROWS)
    for streamed in ("walked", "handed"):
        assert compiled.streams(streamed)
        assert not compiled.looks_at(streamed, Part.OUTPUT), "it is gone through without being held"
    assert not compiled.streams("seen")


def test_a_foreach_is_not_forgiven_as_a_whole() -> None:
    assert CompiledGraph(workflow(FLOW, files=FILES)).topology.forgiven == {"forgiven"}


def test_whole_outputs_that_are_arguments() -> None:
    steps = workflow(FLOW, files=FILES).steps
    assert handed_on(steps["c"]) == {"all": "handed"}
    assert handed_on(steps["a"]) == {}


def test_a_graph_of_values_costs_nothing() -> None:
    free = workflow("steps: {a: {value: 1}, b: {value: '{{ a }}'}}")
    assert not CompiledGraph(free).costly
    assert CompiledGraph(workflow("steps: {a: {foreach: [1], value: 1}}")).costly


def test_texts_to_embed_are_found_in_graphs_within() -> None:
    nested = workflow("""
        defaults: {provider: simulated, model: m}
        steps:
          a:
            workflow:
              steps:
                b: {foreach: [x], embed: "{{ item }}", model: e, batch: {size: 7}}
        """)
    assert texts_together(nested.steps["a"]) == 7
    assert texts_together(workflow("steps: {a: {value: 1}}").steps["a"]) == 0
