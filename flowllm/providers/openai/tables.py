"""What servers mean by their errors and by their finish reasons, and what is said of errors. Data.

Of the table of errors the first row that fits counts. The status alone says little: money runs out with 400, 402, 403 or 429, a model is gone with 400, 403, 404 or 410. So
rows that look at codes and words come first, and those of a status alone last. The tests have an example of each row,
as a server sent it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from enum import StrEnum

from flowllm.core.errors import (
    ContentFiltered,
    InvalidAnswer,
    PathNotFound,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    RequestTooLarge,
    ServerFailed,
    StepError,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.records import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One way in which servers say something."""

    error: type[StepError]
    statuses: Container[int] = ()
    """HTTP statuses for which it holds; empty: any."""
    codes: str = ""
    """Separated by spaces; any of them as `code`, `type`, `status` or `reason`; case and separators do not matter."""
    phrases: str = ""
    """A regular expression found in the message, in lower case. Linear: no repetition within another."""
    source: str = ""
    """Whose server, or the report that shows it."""

    def fits(self, status: int | None, codes: Container[str], text: str) -> bool:
        """Whether it says this. Of an error at status 200 that names no other, codes and phrases decide alone."""
        any_words = not (self.codes or self.phrases)
        if self.statuses and status not in self.statuses and (status is not None or any_words):
            return False
        return (
            any_words
            or any(normalized(code) in codes for code in self.codes.split())
            or (self.phrases != "" and re.search(self.phrases, text) is not None)
        )


def error_type(status: int | None, codes: Container[str], text: str) -> type[StepError] | None:
    """The class of an error by its status, its `normalized` codes and its words in lower case; None where nothing
    decides (possible only without a status)."""
    return next((row.error for row in ERRORS if row.fits(status, codes, text)), None)


def normalized(name: str) -> str:
    """A code or reason without case and separators: `contentFilter`, `content-filter` and `CONTENT_FILTER` are one."""
    return "".join(character for character in name.lower() if character.isalnum())


MESSAGES: Mapping[type[StepError], tuple[str, str]] = {
    QuotaExhausted: (
        "{who} says the account has nothing left to spend{reason}",
        "add credit or raise the account's limit, then `flowllm resume`",
    ),
    ContentFiltered: (
        "the content filter of {who} stopped the request ({status}){reason}",
        "reword the prompt, or name a `fallback` model",
    ),
    RequestTooLarge: (
        "the request is too large for {model} at {who} ({status}){reason}",
        "the prompt is too long for this model: shorten it, lower max_tokens, or name a `fallback` that takes more",
    ),
    UnknownModel: (
        "{who} does not have the model {quoted_model}{reason}",
        "check the spelling of `model`, and that the account may use it",
    ),
    Unauthorized: ("{who} refused {refused} ({status}){reason}", ""),
    RateLimited: ("{who} says to slow down ({status}){reason}", ""),
    ServerFailed: ("{who} failed ({status}){reason}", ""),
    # Of JSON that the server checked itself. The model reads it when it is asked again: no word of where the server is.
    InvalidAnswer: ("the server refused the model's own answer ({status}){reason}", ""),
    PathNotFound: (
        "{who} has nothing at that address ({status}){reason}",
        "check the provider's `base_url`: it usually ends in /v1",
    ),
    RequestRejected: (
        "{who} does not accept the request ({status}){reason}",
        "the request itself is at fault: `flowllm show` prints what was sent",
    ),
}
"""What is said of an error, and what to do about it."""

_NAME = r"[`'\"]?[^\s`'\"]{0,120}[`'\"]?"
_CLIENT_ERRORS = frozenset({400, 401, 403, 404, 406, 410, 412, 422})

ERRORS = (
    # no money left
    Row(QuotaExhausted, {402}, source="DeepSeek, error codes; OpenRouter, errors: 402"),
    Row(
        QuotaExhausted,
        codes=(
            "insufficient_quota billing_hard_limit_reached billing_not_active credit_exhausted "
            "exceeded_current_quota_error insufficient_balance not_enough_balance arrearage insufficient_credits "
            "account_overdue_error allocation_quota.free_tier_only insufficient_user_quota payment_required "
            "budget_exceeded base_resp_1008 spend_limit_reached billing_disabled pre_consume_token_quota_failed"
        ),
        source="OpenAI, error codes; Alibaba Model Studio, error codes; Volcengine Ark, error codes; new-api",
    ),
    Row(
        QuotaExhausted,
        phrases=(
            r"(insufficient|not enough|too low|depleted|exhausted|negative) [\w ]{0,30}(balance|credit|funds)"
            r"|(balance|credits?|funds)\b[\w ]{0,40}\b"
            r"(insufficient|too low|not enough|depleted|exhausted|overdue|negative|run out)"
            r"|(no|any|out of|add|purchase|buy|requires?) "
            r"(more |available |remaining |any |sufficient |free |prepaid )?(credits|funds)\b"
            r"|used (all|up)[\w ]{0,20} credits|exceeded[\w ]{0,30}\b(included )?credits"
            r"|credit (limit|balance)[\w ]{0,20} (exceeded|reached)"
        ),
        source="Anthropic, 400; Moonshot, 429; xAI and SiliconFlow, 403; Hugging Face router, 402; Gemini prepaid, 429",
    ),
    Row(
        QuotaExhausted,
        phrases=(
            r"\brecharge\b|\btop.?up\b|\barrears\b|overdue (balance|payment|bill)|unpaid (bill|invoice)|欠费|余额不足|充值"
            r"|额度(不足|已用尽)|quota is not enough"
            r"|payment required|invalid_payment_instrument|valid payment (instrument|method)|payment method is required"
            r"|\b(trial|subscription|free credits)\b[\w ]{0,20} (ended|expired)\b|no active subscription|past invoices"
        ),
        source="Moonshot, 429; Zhipu, code 1113; Alibaba, Arrearage; Fireworks, 412; Bedrock; new-api, 403",
    ),
    Row(
        QuotaExhausted,
        phrases=(
            r"spend(ing)? (limit|cap)|monthly (quota|limit|budget)|budget (has been )?exceeded|max budget|api usage limits?\b"
            r"|billing (hard )?limit|hard limit reached|billing (is )?not active|billing to be enabled|enable billing"
            r"|key limit exceeded|\d (api )?calls ?/ ?month|free tier of the model has been exhausted"
        ),
        source="OpenRouter, limits; xAI, 403; Fireworks, 412; Cohere trial keys, 429",
    ),
    # words of money that mean a rate
    Row(
        RateLimited,
        {429},
        codes="resource_exhausted",
        source="Gemini API, 429: its quotas a minute and a day have the words that are money at OpenAI",
    ),
    Row(
        QuotaExhausted,
        {429, 403, 401},
        phrases=r"exceeded your current quota.{0,40}billing",
        source="OpenAI behind proxies that drop the code",
    ),
    # content filters
    Row(
        ContentFiltered,
        codes=(
            "content_filter content_filtered ResponsibleAIPolicyViolation content_policy_violation "
            "data_inspection_failed moderation_blocked prohibited_content content_violation SensitiveContentDetected "
            "InputTextSensitiveContentDetected OutputTextSensitiveContentDetected base_resp_1026 base_resp_1027 "
            "ContentPolicyViolationError flagged_input image_content_policy_violation hooks_failed"
        ),
        source="Azure OpenAI, content filtering; Alibaba, data_inspection_failed; OpenRouter, moderation metadata; MiniMax",
    ),
    Row(
        ContentFiltered,
        _CLIENT_ERRORS | {424, 451, 500},
        phrases=(
            r"content management policy|content filter|content polic(y|ies)|content filtering polic"
            r"|(requires moderation|input|prompt|request|content) [\w ,]{0,30}\bflagged\b"
            r"|content exists risk|considered high risk|inappropriate content|prohibited content"
            r"|(sensitive|unsafe|harmful) (content|information|word)|敏感|不安全"
            r"|violat\w+[\w ]{0,60}(polic|guideline)|against[\w ]{0,40}(usage|content|safety) (polic|guideline)"
            r"|(blocked|rejected)\b[\w :]{0,30}\b(safety|guardrails?|llama guard|moderation)\b"
            r"|content moderation|flagged by moderation|(text|content) risk"
            r"|safety (system|filter|check|setting)|guardrail (polic|check)|contentpolicyviolation|new_sensitive"
            r"|prompt was blocked"
        ),
        source="DeepSeek; Moonshot; Anthropic; xAI, 403; OpenRouter, 403; Zhipu, code 1301; LiteLLM guardrails",
    ),
    Row(ContentFiltered, {446, 451}, source="SiliconFlow, 451; Portkey's guardrails, 446"),
    # more than the model takes
    Row(
        RequestTooLarge,
        codes=(
            "context_length_exceeded exceed_context_size_error string_above_max_length request_too_large "
            "prompt_too_long context_window_exceeded ContextWindowExceededError tokens_limit_reached"
        ),
        source="OpenAI, error codes; llama.cpp server; Anthropic, 413; GitHub Models, 413",
    ),
    Row(
        RequestTooLarge,
        codes="requested_more_than_limit",
        phrases=r"request too large",
        source="OpenAI, 429; Groq, 413",
    ),
    Row(
        RequestTooLarge,
        _CLIENT_ERRORS | {413, 429, 500},
        phrases=(
            r"(maximum|max|available|model'?s) (context|prompt|input) (length|size|window|tokens)"
            r"|context (length|window|size)[\w ]{0,30}(exceed|limit|too)|exceeds?[\w ]{0,40}context\b"
            r"|(greater|longer|larger) than the (model'?s )?(maximum |max )?(context|model) length|tokens when context"
            r"|(input|prompt|text)( length \d+| length)? exceeds (the )?(model'?s )?(maximum|max) length|model token limit"
            r"|less than max_seq_len|max message tokens|context ?window ?exceeded|expected maxlength"
            r"|(prompt|input|request)[\w ()]{0,40} (is |are )?too (long|large)"
            r"|reduce the length of (the|your) (messages|prompt|input)"
            r"|(token count|tokens)[\w ()]{0,40} exceeds? the (model'?s )?(maximum|max|limit)|超长"
            r"|too many (input |prompt |total )?tokens\b(?! (per|a|processed)\b|[,.] (please )?(wait|try))"
            r"|tokens.{0,40}must be <=|must have (less|fewer) than \d+ tokens|range of input length should be"
        ),
        source="llama.cpp server, 500; Anthropic; Gemini; Mistral; vLLM; TGI, 422; Alibaba; Groq; Moonshot; LM Studio",
    ),
    Row(RequestTooLarge, {413}, source="nginx, client_max_body_size"),
    # no such model
    Row(
        UnknownModel,
        codes=(
            "model_not_found model_not_available unknown_model unavailable_model invalid_model model_decommissioned "
            "model_deprecated model_not_supported model_terms_required DeploymentNotFound ModelNotFound "
            "model_not_exist invalid_model_name Model.AccessDenied ModelNotOpen InvalidEndpointOrModel.NotFound "
            "model_permission_blocked_project"
        ),
        source="OpenAI, 403 and 404; Groq, 400; Azure, 404; Mistral, 400; GitHub Models; Together; Volcengine",
    ),
    Row(
        UnknownModel,
        _CLIENT_ERRORS,
        phrases=(
            rf"\b(models?|deployment)\b[:/]?\s?({_NAME} )?(for this resource )?(version )?"
            r"(is |was |has been |has |does |could )?(currently |since )?"
            r"(not found|not exist|not be found|can.?t be found|couldn.t be found|doesn'?t exist|no longer|decommissioned"
            r"|deprecated|removed|retired|disabled|not (available|supported|accessible|loaded)|unavailable|sunset"
            r"|discontinued|reached (its end of|the end of its) life|not a valid model|shut down)"
            r"|\b(invalid|unknown|unavailable|unrecognized|no such|not a valid|unsupported) model\b"
            r"|(access|unable to access|permission) (to )?(the |this |non-serverless )?model\b"
            r"|(allowed|permitted|verified|authorized) to (use|access) (the |this )?model\b"
            r"|no (endpoints|allowed providers)[\w ]{0,20} (found|available|are available)"
            r"|model identifier is invalid|resolve the foundation model|not a chat model"
            r"|does not work with the specified model"
            r"|^model: |模型不存在|failed to load model|n.?t find (the |a )?model\b|function .{1,80}: not found for account"
            r"|with on-demand throughput isn.t supported"
        ),
        source="DeepSeek, 400; vLLM, Ollama and LM Studio, 404; Gemini, 404; Anthropic, 404; OpenRouter; NVIDIA, 410; Bedrock",
    ),
    # by codes and words
    Row(
        UnknownModel,
        {403, 404, 500, 503},
        phrases=r"no available channels? for( the)? model|无可用渠道",
        source="one-api and new-api, 503",
    ),
    Row(
        PathNotFound,
        _CLIENT_ERRORS | {405},
        phrases=(
            r"unexpected endpoint|invalid url \(|cannot post|no such (route|endpoint|path)"
            r"|(route|endpoint|path|url) (was )?not found|unknown (request )?(route|endpoint|path|url)"
        ),
        source="OpenAI, 404; LM Studio, `Unexpected endpoint or method` at status 200; Express, Cannot POST",
    ),
    Row(
        InvalidAnswer,
        codes="json_validate_failed json_validation_failed failed_generation",
        source="Groq, structured outputs: 400 with failed_generation",
    ),
    Row(
        Unauthorized,
        {400, 401, 403},
        codes=(
            "invalid_api_key API_KEY_INVALID authentication_error permission_error unauthenticated "
            "invalid_authentication_error access_token_expired base_resp_1004 base_resp_2049 organization_restricted "
            "account_deactivated"
        ),
        phrases=(
            r"api[ _-]?key (not valid|is invalid|is missing|not found|expired)"
            r"|(invalid|incorrect|wrong) api[ _-]?key|invalid token|no api key|authentication failed"
        ),
        source="Gemini API, 400; OpenAI, 401; Anthropic, 401 and 403; MiniMax, base_resp",
    ),
    Row(
        RateLimited,
        {400, 403, 429},
        codes=(
            "rate_limit_exceeded rate_limit_error too_many_requests slow_down ThrottlingException "
            "user_rate_limit_exceeded rate_limit_reached throttled RateLimitReached limit_requests limit_burst_rate "
            "Throttling.RateQuota Throttling.AllocationQuota EngineOverloaded base_resp_1002 base_resp_1039 "
            "base_resp_1041 base_resp_2056 token_quota_exceeded request_quota_exceeded"
        ),
        source="Google APIs, 403; AWS, ThrottlingException at 400; Alibaba, Throttling; MiniMax, base_resp",
    ),
    Row(
        RateLimited,
        {400, 403},
        phrases=r"rate limit (reached|exceeded|hit)|too many requests|exceeded[\w ]{0,30} rate limit",
        source="GitHub, secondary rate limits: 403",
    ),
    Row(
        ServerFailed,
        {500},  # where the error came with status 200, in whose stead the code speaks
        codes=(
            "server_error internal_error internal_server_error overloaded_error service_unavailable api_error "
            "internal unavailable timeout upstream_error bad_gateway engine_overloaded base_resp_1000 base_resp_1001 "
            "base_resp_1013 base_resp_1024 base_resp_1033"
        ),
        source="OpenAI, error codes; Anthropic, overloaded_error; Gemini, UNAVAILABLE; MiniMax, base_resp",
    ),
    # errors that came with status 200
    Row(
        RequestRejected,
        {400},
        codes=(
            "invalid_request_error invalid_prompt invalid_parameter bad_request invalid_image invalid_image_url "
            "invalid_image_format invalid_base64_image unsupported_image_media_type image_parse_error image_too_large "
            "image_too_small image_file_too_large empty_image_file failed_to_download_image"
        ),
        source="OpenAI, Responses: `error.code` of an answer whose status is failed",
    ),
    # by the status alone
    Row(Unauthorized, {401, 403}, source="RFC 9110, sections 15.5.2 and 15.5.4"),
    Row(PathNotFound, {404, 405, 410}, source="FastAPI; RFC 9110, sections 15.5.5, 15.5.6 and 15.5.11"),
    Row(RateLimited, {420, 429}, source="RFC 6585, section 4; 420 as older gateways send it"),
    Row(
        ServerFailed,
        {408, 409, 421, 423, 424, 425, 449, 460, 498, 499},
        source="Groq flex, 498; RFC 8470, 425; WebDAV, 423; TEI and TGI, 424; IIS, 449; AWS ELB, 460; nginx, 499",
    ),
    Row(ServerFailed, range(500, 1000), source="Anthropic, 529; Cloudflare, 520 to 527; RFC 9110, section 15.6"),
    Row(RequestRejected, range(300, 500), source="FastAPI and Mistral, 422; RFC 9110, section 15.5.1"),
)


class End(StrEnum):
    """What ended an answer: the meaning of a finish reason."""

    DONE = "done"  # the model said all it wanted to
    CUT = "cut"  # at a token limit: there would have been more
    FILTERED = "filtered"  # by a content filter, or by the model itself
    TOOLS = "tools"  # the model wants a tool called
    ABORTED = "aborted"  # the server broke off: it may go better another time
    UNKNOWN = "unknown"  # a reason that is not in the table: nobody knows whether it is whole


FINISH_REASONS: tuple[tuple[End, str, str], ...] = (
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
