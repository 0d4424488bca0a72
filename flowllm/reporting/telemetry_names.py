"""The names under which OpenTelemetry gets spans, attributes and metrics: all that changes when conventions do.

`gen_ai.…`: the semantic conventions for generative AI, which are in development, as OpenTelemetry's semantic conventions 1.41
have them, the last ones before they got a repository of their own, which renames some; `error.type` is stable; `flowllm.…` are ours.
"""

from __future__ import annotations

from typing import Final

from flowllm.core.types import StepKind

SCOPE: Final = "flowllm"
"""The instrumentation's name."""

# spans: "invoke_workflow NAME" of a run, "STEP" of a node, "chat MODEL" of a request

OPERATION: Final = "gen_ai.operation.name"
INVOKE_WORKFLOW: Final = "invoke_workflow"
CHAT: Final = "chat"
EMBEDDINGS: Final = "embeddings"
WORKFLOW: Final = "gen_ai.workflow.name"
PROVIDER: Final = "gen_ai.provider.name"
MODEL: Final = "gen_ai.request.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
ERROR_TYPE: Final = "error.type"

RUN_ID: Final = "flowllm.run.id"
RUN_STATUS: Final = "flowllm.run.status"
RESUMED: Final = "flowllm.run.resumed"
NODE_ID: Final = "flowllm.node.id"
NODE_STATUS: Final = "flowllm.node.status"
STEP: Final = "flowllm.step"
"""A node's name without the numbers of items."""
KIND: Final = "flowllm.step.kind"
INDEX: Final = "flowllm.item.index"
ATTEMPT: Final = "flowllm.attempt"
HEDGE: Final = "flowllm.hedge"
CACHED: Final = "flowllm.cached"
COST: Final = "flowllm.cost_usd"
QUEUED: Final = "flowllm.queue_s"
WAITED: Final = "flowllm.waited_s"
"""With the reason behind it: `flowllm.waited_s.rate`."""
RETRY: Final = "flowllm.retry"
"""An event of a span."""
JOINED: Final = "flowllm.joined"
"""The same: an equal request was on its way."""

# metrics

OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - counts of tokens
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - the same
RUN_DURATION: Final = "flowllm.run.duration"
NODE_DURATION: Final = "flowllm.node.duration"
WAIT_TIME: Final = "flowllm.wait.time"
WAIT_REASON: Final = "flowllm.wait.reason"
COST_TOTAL: Final = "flowllm.cost"
CACHE_LOOKUPS: Final = "flowllm.response_cache.lookups"
CACHE_RESULT: Final = "flowllm.response_cache.result"
DURATIONS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds of buckets, seconds; as the conventions advise, as do the next."""
TOKENS: Final = tuple(4.0**power for power in range(14))


def operation_of(kind: StepKind | None) -> str:
    """What a request of such a step does."""
    return EMBEDDINGS if kind is StepKind.EMBED else CHAT
