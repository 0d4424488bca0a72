"""Kinds of steps: a folder for each, with its keys, its builder and its runner, and its line here, by which it is registered.

The lines stand in the order in which the documentation names the kinds.
"""

from flowllm.steps import embed, http, prompt, python, shell, value, workflow
from flowllm.steps.registry import register

register(prompt.KIND)
register(embed.KIND)
register(python.KIND)
register(shell.KIND)
register(http.KIND)
register(workflow.KIND)
register(value.KIND)
