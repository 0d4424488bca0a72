from __future__ import annotations

from flowllm.steps.prompt.runner import PerBody
from tests.support.workflows import workflow

TWICE = """
defaults: {provider: simulated}
steps:
  judge: {prompt: rate it, output: json}
  review:
    workflow:
      steps:
        judge: {prompt: rate it, output: json}
      outputs: {verdict: "{{ judge }}"}
"""


def test_steps_of_one_name_and_with_one_text_have_a_value_each() -> None:
    steps = workflow(TWICE).steps
    first, second = steps["judge"].body, steps["review"].body.graph.steps["judge"].body
    made = PerBody(lambda _: object())
    assert made.of(first) is made.of(first)
    assert made.of(first) is not made.of(second)
