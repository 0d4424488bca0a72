"""What ended an answer: one table of the finish reasons that servers give. Data, with a source for each row."""

from __future__ import annotations

from enum import StrEnum

from flowllm.providers.openai.error_body import normalized


class End(StrEnum):
    """What a finish reason means."""

    DONE = "done"  # the model said all it wanted to
    CUT = "cut"  # at a token limit: there would have been more
    FILTERED = "filtered"  # by a content filter, or by the model itself
    TOOLS = "tools"  # the model wants a tool called
    ABORTED = "aborted"  # the server broke off: it may go better another time
    UNKNOWN = "unknown"  # a reason that is not in the table: nobody knows whether it is whole


TABLE: tuple[tuple[End, str, str], ...] = (
    (End.DONE, "stop completed", "OpenAI, Chat Completions and Responses"),
    (End.DONE, "end_turn stop_sequence pause_turn", "Anthropic, Messages, through gateways"),
    (End.DONE, "complete eos eos_token stop_token end", "Cohere, Together and TGI"),
    (End.DONE, "finished done finish endoftext im_end eot eot_id </s> normal", "servers for local models"),
    (
        End.DONE,
        "eosFound stopStringFound stop_str reason_stop finish_reason_stop",
        "LM Studio; xAI's and Google's enumerations",
    ),
    (End.CUT, "length max_output_tokens incomplete", "OpenAI, Chat Completions and Responses"),
    (End.CUT, "max_tokens model_context_window_exceeded", "Anthropic; Gemini (MAX_TOKENS); Cohere"),
    (End.CUT, "model_length", "Mistral, finish_reason"),
    (End.CUT, "max_length token_limit max_new_tokens context_length context_length_exceeded", "IBM and TGI"),
    (End.CUT, "length_limit limit time_limit truncated context_window_exceeded", "watsonx; Zhipu"),
    (
        End.CUT,
        "maxPredictedTokensReached contextLengthReached max_completion_tokens max_output max_time",
        "LM Studio; MiniMax; gateways",
    ),
    (
        End.CUT,
        "reason_max_len reason_max_context reason_time_limit finish_reason_max_tokens",
        "xAI's and Google's enumerations",
    ),
    (End.FILTERED, "content_filter content_filtered filtered", "OpenAI; Azure; Bedrock"),
    (
        End.FILTERED,
        "safety recitation prohibited_content blocklist spii image_safety language image_recitation image_prohibited_content model_armor",
        "Gemini, FinishReason, alone and after `content_filter: `",
    ),
    (End.FILTERED, "sensitive", "Zhipu, finish_reason"),
    (End.FILTERED, "guardrail_intervened guardrails error_toxic content_moderation moderation", "Bedrock; Cohere"),
    (End.FILTERED, "blocked content_policy content_policy_violation data_inspection_failed", "gateways; Alibaba"),
    (End.FILTERED, "refusal", "Anthropic, stop_reason"),
    (End.TOOLS, "tool_calls function_call", "OpenAI, Chat Completions"),
    (End.TOOLS, "tool_use tool_call", "Anthropic; Cohere"),
    (End.ABORTED, "error failed cancelled canceled in_progress queued", "OpenRouter; OpenAI, Responses"),
    (End.ABORTED, "insufficient_system_resource", "DeepSeek, finish_reason"),
    (End.ABORTED, "abort aborted abandoned repetition", "vLLM and SGLang, when a request is dropped"),
    (End.ABORTED, "network_error server_error timeout error_limit user_cancel", "Zhipu; Cohere; gateways"),
    (End.ABORTED, "internal_error unknown_error upstream_error overloaded_error interrupted", "gateways"),
    (End.ABORTED, "userStopped modelUnloaded load unload", "LM Studio and Ollama"),
    (End.ABORTED, "malformed_model_output missing_thought_signature too_many_tool_calls", "Bedrock; Gemini"),
    (End.ABORTED, "malformed_function_call unexpected_tool_call malformed_response malformed_tool_use", "Gemini"),
    (End.ABORTED, "other finish_reason_unspecified no_image image_other", "Gemini, FinishReason"),
)

_ENDS = {normalized(reason): end for end, reasons, _ in TABLE for reason in reasons.split()}


def end_of(reason: str) -> End:
    """What a reason means, whatever its case and separators; none given counts as done. `content_filter: SAFETY`
    stands for its first word if the whole is not known."""
    if not reason.strip():
        return End.DONE
    whole, first = normalized(reason), normalized(reason.partition(":")[0])
    return _ENDS.get(whole) or _ENDS.get(first) or End.UNKNOWN
