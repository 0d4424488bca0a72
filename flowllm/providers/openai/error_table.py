"""What servers mean by their errors: one table of statuses, codes and phrases. Data; the first row that fits counts.

The status alone says little: money runs out with 400, 402, 403 or 429, a model is gone with 400, 403, 404 or 410. So
rows that look at codes and words come first, and those of a status alone last. Every row has an example as a server
sent it and where that was seen; the tests go through them.
"""

from __future__ import annotations

from flowllm.core.types import Json
from flowllm.providers.openai.error_body import Words
from flowllm.providers.openai.meanings import Meaning, Row


def meaning_of(status: int | None, words: Words) -> Meaning | None:
    """What an error means; None where nothing tells (possible only without a status)."""
    return next((row.meaning for row in TABLE if row.fits(status, words)), None)


def _error(message: str, code: Json = None, kind: Json = None, **more: Json) -> Json:
    return {"error": {"message": message, "type": kind, "code": code, **more}}


_NAME = r"[`'\"]?[^\s`'\"]{0,120}[`'\"]?"
_REFUSALS = frozenset({400, 401, 403, 404, 406, 410, 412, 422})

_MONEY = (
    Row(
        meaning=Meaning.NO_MONEY,
        statuses={402},
        example=(402, _error("Insufficient Balance", "invalid_request_error", "unknown_error")),
        source="DeepSeek, error codes; OpenRouter, errors: 402",
    ),
    Row(
        meaning=Meaning.NO_MONEY,
        codes=(
            "insufficient_quota billing_hard_limit_reached billing_not_active credit_exhausted "
            "exceeded_current_quota_error insufficient_balance not_enough_balance arrearage "
            "insufficient_credits account_overdue_error allocation_quota.free_tier_only "
            "insufficient_user_quota payment_required budget_exceeded base_resp_1008 spend_limit_reached billing_disabled "
            "pre_consume_token_quota_failed"
        ),
        example=(429, _error("You exceeded your current quota.", "insufficient_quota", "insufficient_quota")),
        source="OpenAI, error codes; Alibaba Model Studio, error codes; Volcengine Ark, error codes; new-api",
    ),
    Row(
        meaning=Meaning.NO_MONEY,
        phrases=(
            r"(insufficient|not enough|too low|depleted|exhausted|negative) [\w ]{0,30}(balance|credit|funds)",
            (
                r"(balance|credits?|funds)\b[\w ]{0,40}\b(insufficient|too low|not enough|depleted|exhausted|overdue"
                r"|negative|run out)"
            ),
            (
                r"(no|any|out of|add|purchase|buy|requires?) "
                r"(more |available |remaining |any |sufficient |free |prepaid )?(credits|funds)\b"
            ),
            r"used (all|up)[\w ]{0,20} credits",
            r"exceeded[\w ]{0,30}\b(included )?credits",
            r"credit (limit|balance)[\w ]{0,20} (exceeded|reached)",
        ),
        example=(400, _error("Your credit balance is too low to access the API.", None, "invalid_request_error")),
        source="Anthropic, 400; Moonshot, 429; xAI and SiliconFlow, 403; Hugging Face router, 402; Gemini prepaid, 429",
    ),
    Row(
        meaning=Meaning.NO_MONEY,
        phrases=(
            r"\brecharge\b",
            r"\btop.?up\b",
            r"\barrears\b",
            r"overdue (balance|payment|bill)",
            r"unpaid (bill|invoice)",
            r"欠费",
            r"余额不足",
            r"充值",
            r"额度(不足|已用尽)|quota is not enough",
            r"payment required|invalid_payment_instrument|valid payment (instrument|method)|payment method is required",
            r"\b(trial|subscription|free credits)\b[\w ]{0,20} (ended|expired)\b|no active subscription",
            r"past invoices",
        ),
        example=(429, _error("Your account is suspended, please recharge your account")),
        source="Moonshot, 429; Zhipu, code 1113; Alibaba, Arrearage; Fireworks, 412; Bedrock; new-api, 403",
    ),
    Row(
        meaning=Meaning.NO_MONEY,
        phrases=(
            r"spend(ing)? (limit|cap)|monthly (quota|limit|budget)|budget (has been )?exceeded|max budget|api usage limits?\b",
            r"billing (hard )?limit|hard limit reached|billing (is )?not active|billing to be enabled|enable billing",
            r"key limit exceeded",
            r"\d (api )?calls ?/ ?month",
            r"free tier of the model has been exhausted",
        ),
        example=(403, {"error": {"code": 403, "message": "Key limit exceeded (total limit). Manage it in settings"}}),
        source="OpenRouter, limits; xAI, 403; Fireworks, 412; Cohere trial keys, 429",
    ),
)

_RATE_FIRST = (
    Row(
        meaning=Meaning.SLOW_DOWN,
        statuses={429},
        codes="resource_exhausted",
        example=(
            429,
            [
                _error(
                    "You exceeded your current quota, please check your plan and billing details.",
                    429,
                    status="RESOURCE_EXHAUSTED",
                )
            ],
        ),
        source="Gemini API, 429: its quotas a minute and a day have the words that are money at OpenAI",
    ),
    Row(
        meaning=Meaning.NO_MONEY,
        statuses={429, 403, 401},
        phrases=(r"exceeded your current quota.{0,40}billing",),
        example=(429, _error("You exceeded your current quota, please check your plan and billing details.")),
        source="OpenAI behind proxies that drop the code",
    ),
)

_FILTERED = (
    Row(
        meaning=Meaning.FILTERED,
        codes=(
            "content_filter content_filtered ResponsibleAIPolicyViolation content_policy_violation "
            "data_inspection_failed moderation_blocked prohibited_content content_violation "
            "SensitiveContentDetected InputTextSensitiveContentDetected OutputTextSensitiveContentDetected "
            "base_resp_1026 base_resp_1027 ContentPolicyViolationError flagged_input image_content_policy_violation "
            "hooks_failed"
        ),
        example=(
            400,
            _error(
                "The response was filtered.",
                "content_filter",
                None,
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
        ),
        source="Azure OpenAI, content filtering; Alibaba, data_inspection_failed; OpenRouter, moderation metadata; MiniMax",
    ),
    Row(
        meaning=Meaning.FILTERED,
        statuses=_REFUSALS | {424, 451, 500},
        phrases=(
            r"content management policy|content filter|content polic(y|ies)|content filtering polic",
            r"(requires moderation|input|prompt|request|content) [\w ,]{0,30}\bflagged\b",
            r"content exists risk|considered high risk|inappropriate content|prohibited content",
            r"(sensitive|unsafe|harmful) (content|information|word)|敏感|不安全",
            r"violat\w+[\w ]{0,60}(polic|guideline)|against[\w ]{0,40}(usage|content|safety) (polic|guideline)",
            (
                r"(blocked|rejected)\b[\w :]{0,30}\b(safety|guardrails?|llama guard|moderation)\b"
                r"|content moderation|flagged by moderation|(text|content) risk"
            ),
            r"safety (system|filter|check|setting)|guardrail (polic|check)|contentpolicyviolation",
            r"new_sensitive|prompt was blocked",
        ),
        example=(400, _error("Content Exists Risk", "invalid_request_error", "invalid_request_error")),
        source="DeepSeek; Moonshot; Anthropic; xAI, 403; OpenRouter, 403; Zhipu, code 1301; LiteLLM guardrails",
    ),
    Row(
        meaning=Meaning.FILTERED,
        statuses={446, 451},
        example=(451, {"message": "Unavailable For Legal Reasons"}),
        source="SiliconFlow, 451; Portkey's guardrails, 446",
    ),
)

_TOO_LARGE = (
    Row(
        meaning=Meaning.TOO_LARGE,
        codes=(
            "context_length_exceeded exceed_context_size_error string_above_max_length request_too_large "
            "prompt_too_long context_window_exceeded ContextWindowExceededError tokens_limit_reached"
        ),
        example=(400, _error("This model's maximum context length is 8192 tokens.", "context_length_exceeded")),
        source="OpenAI, error codes; llama.cpp server; Anthropic, 413; GitHub Models, 413",
    ),
    Row(
        meaning=Meaning.TOO_LARGE,
        codes="requested_more_than_limit",
        phrases=(r"request too large",),
        example=(
            429,
            _error(
                "Request too large for m on tokens per min (TPM): Limit 30000, Requested 45411.",
                "rate_limit_exceeded",
                "tokens",
            ),
        ),
        source="OpenAI, 429; Groq, 413",
    ),
    Row(
        meaning=Meaning.TOO_LARGE,
        phrases=(
            r"(maximum|max|available|model'?s) (context|prompt|input) (length|size|window|tokens)",
            r"context (length|window|size)[\w ]{0,30}(exceed|limit|too)|exceeds?[\w ]{0,40}context\b",
            r"(greater|longer|larger) than the (model'?s )?(maximum |max )?(context|model) length|tokens when context",
            r"(input|prompt|text)( length \d+| length)? exceeds (the )?(model'?s )?(maximum|max) length|model token limit",
            r"less than max_seq_len|max message tokens|context ?window ?exceeded|expected maxlength",
            r"(prompt|input|request)[\w ()]{0,40} (is |are )?too (long|large)",
            r"reduce the length of (the|your) (messages|prompt|input)",
            r"(token count|tokens)[\w ()]{0,40} exceeds? the (model'?s )?(maximum|max|limit)|超长",
            r"too many (input |prompt |total )?tokens\b(?! (per|a|processed)\b|[,.] (please )?(wait|try))",
            r"tokens.{0,40}must be <=|must have (less|fewer) than \d+ tokens|range of input length should be",
        ),
        statuses=_REFUSALS | {413, 429, 500},
        example=(
            500,
            {"error": {"code": 500, "type": "server_error", "message": "input (992 tokens) is too large to process."}},
        ),
        source="llama.cpp server, 500; Anthropic; Gemini; Mistral; vLLM; TGI, 422; Alibaba; Groq; Moonshot; LM Studio",
    ),
    Row(
        meaning=Meaning.TOO_LARGE,
        statuses={413},
        example=(413, "<html><head><title>413 Entity Too Large</title></head></html>"),
        source="nginx, client_max_body_size",
    ),
)

_NO_MODEL = (
    Row(
        meaning=Meaning.NO_MODEL,
        codes=(
            "model_not_found model_not_available unknown_model unavailable_model invalid_model "
            "model_decommissioned model_deprecated model_not_supported model_terms_required "
            "DeploymentNotFound ModelNotFound model_not_exist invalid_model_name Model.AccessDenied "
            "ModelNotOpen InvalidEndpointOrModel.NotFound model_permission_blocked_project"
        ),
        example=(
            403,
            _error("Project `p` does not have access to model `gpt-x`", "model_not_found", "invalid_request_error"),
        ),
        source="OpenAI, 403 and 404; Groq, 400; Azure, 404; Mistral, 400; GitHub Models; Together; Volcengine",
    ),
    Row(
        meaning=Meaning.NO_MODEL,
        statuses=_REFUSALS,
        phrases=(
            (
                rf"\b(models?|deployment)\b[:/]?\s?({_NAME} )?(for this resource )?(version )?(is |was |has been |has |does |could )?"
                r"(currently |since )?(not found|not exist|not be found|can.?t be found|couldn.t be found|doesn'?t exist|no longer|decommissioned|deprecated"
                r"|removed|retired|disabled|not (available|supported|accessible|loaded)|unavailable|sunset|discontinued|reached (its end of|the end of its) life"
                r"|not a valid model|shut down)"
            ),
            r"\b(invalid|unknown|unavailable|unrecognized|no such|not a valid|unsupported) model\b",
            r"(access|unable to access|permission) (to )?(the |this |non-serverless )?model\b",
            r"(allowed|permitted|verified|authorized) to (use|access) (the |this )?model\b",
            r"no (endpoints|allowed providers)[\w ]{0,20} (found|available|are available)",
            r"model identifier is invalid|resolve the foundation model|not a chat model|does not work with the specified model",
            r"^model: |模型不存在|failed to load model|n.?t find (the |a )?model\b|function .{1,80}: not found for account",
            r"with on-demand throughput isn.t supported",
        ),
        example=(400, _error("Model Not Exist", "invalid_request_error", "invalid_request_error")),
        source="DeepSeek, 400; vLLM, Ollama and LM Studio, 404; Gemini, 404; Anthropic, 404; OpenRouter; NVIDIA, 410; Bedrock",
    ),
)

_BY_CODE = (
    Row(
        meaning=Meaning.NO_MODEL,
        statuses={403, 404, 500, 503},
        phrases=(r"no available channels? for( the)? model|无可用渠道",),
        example=(503, _error("No available channel for model m under group default")),
        source="one-api and new-api, 503",
    ),
    Row(
        meaning=Meaning.NO_PATH,
        statuses=_REFUSALS | {405},
        phrases=(
            r"unexpected endpoint|invalid url \(|cannot post|no such (route|endpoint|path)",
            r"(route|endpoint|path|url) (was )?not found|unknown (request )?(route|endpoint|path|url)",
        ),
        example=(404, _error("Invalid URL (POST /v2/chat/completions)", None, "invalid_request_error")),
        source="OpenAI, 404; LM Studio, `Unexpected endpoint or method` at status 200; Express, Cannot POST",
    ),
    Row(
        meaning=Meaning.BAD_JSON,
        codes="json_validate_failed json_validation_failed failed_generation",
        example=(400, _error("Failed to validate JSON.", "json_validate_failed", failed_generation='{"a": one}')),
        source="Groq, structured outputs: 400 with failed_generation",
    ),
    Row(
        meaning=Meaning.NO_ENTRY,
        codes=(
            "invalid_api_key API_KEY_INVALID authentication_error permission_error unauthenticated "
            "invalid_authentication_error access_token_expired base_resp_1004 base_resp_2049 "
            "organization_restricted account_deactivated"
        ),
        phrases=(
            (
                r"api[ _-]?key (not valid|is invalid|is missing|not found|expired)|(invalid|incorrect|wrong) api[ _-]?key"
                r"|invalid token|no api key|authentication failed"
            ),
        ),
        statuses={400, 401, 403},
        example=(
            400,
            [_error("API key not valid.", 400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}])],
        ),
        source="Gemini API, 400; OpenAI, 401; Anthropic, 401 and 403; MiniMax, base_resp",
    ),
    Row(
        meaning=Meaning.SLOW_DOWN,
        codes=(
            "rate_limit_exceeded rate_limit_error too_many_requests slow_down ThrottlingException "
            "user_rate_limit_exceeded rate_limit_reached throttled RateLimitReached limit_requests "
            "limit_burst_rate Throttling.RateQuota Throttling.AllocationQuota EngineOverloaded "
            "base_resp_1002 base_resp_1039 base_resp_1041 base_resp_2056 token_quota_exceeded request_quota_exceeded"
        ),
        statuses={400, 403, 429},
        example=(
            403,
            _error(
                "User Rate Limit Exceeded", 403, status="PERMISSION_DENIED", details=[{"reason": "rateLimitExceeded"}]
            ),
        ),
        source="Google APIs, 403; AWS, ThrottlingException at 400; Alibaba, Throttling; MiniMax, base_resp",
    ),
    Row(
        meaning=Meaning.SLOW_DOWN,
        statuses={400, 403},
        phrases=(r"rate limit (reached|exceeded|hit)|too many requests|exceeded[\w ]{0,30} rate limit",),
        example=(403, {"message": "You have exceeded a secondary rate limit. Please wait."}),
        source="GitHub, secondary rate limits: 403",
    ),
    Row(
        meaning=Meaning.TROUBLE,
        statuses={500},  # where the error came with status 200, in whose stead the code speaks
        codes=(
            "server_error internal_error internal_server_error overloaded_error service_unavailable "
            "api_error internal unavailable timeout upstream_error bad_gateway engine_overloaded "
            "base_resp_1000 base_resp_1001 base_resp_1013 base_resp_1024 base_resp_1033"
        ),
        example=(500, _error("The server had an error", "server_error", "server_error")),
        source="OpenAI, error codes; Anthropic, overloaded_error; Gemini, UNAVAILABLE; MiniMax, base_resp",
    ),
)

_AT_200 = (
    Row(
        meaning=Meaning.REJECTED,
        statuses={400},
        codes=(
            "invalid_request_error invalid_prompt invalid_parameter bad_request invalid_image invalid_image_url "
            "invalid_image_format invalid_base64_image unsupported_image_media_type image_parse_error "
            "image_too_large image_too_small image_file_too_large empty_image_file failed_to_download_image"
        ),
        example=(400, _error("Invalid value: 'x'.", "invalid_value", "invalid_request_error")),
        source="OpenAI, Responses: `error.code` of an answer whose status is failed",
    ),
)

_BY_STATUS = (
    Row(
        meaning=Meaning.NO_ENTRY,
        statuses={401, 403},
        example=(401, {"detail": "Unauthorized"}),
        source="RFC 9110, sections 15.5.2 and 15.5.4",
    ),
    Row(
        meaning=Meaning.NO_PATH,
        statuses={404, 405, 410},
        example=(404, {"detail": "Not Found"}),
        source="FastAPI; RFC 9110, sections 15.5.5, 15.5.6 and 15.5.11",
    ),
    Row(
        meaning=Meaning.SLOW_DOWN,
        statuses={420, 429},
        example=(429, ""),
        source="RFC 6585, section 4; 420 as older gateways send it",
    ),
    Row(
        meaning=Meaning.TROUBLE,
        statuses={408, 409, 421, 423, 424, 425, 449, 460, 498, 499},
        example=(498, _error("over capacity, try again later", "capacity_exceeded")),
        source="Groq flex, 498; RFC 8470, 425; WebDAV, 423; TEI and TGI, 424; IIS, 449; AWS ELB, 460; nginx, 499",
    ),
    Row(
        meaning=Meaning.TROUBLE,
        statuses=range(500, 1000),
        example=(529, _error("Overloaded", None, "overloaded_error")),
        source="Anthropic, 529; Cloudflare, 520 to 527; RFC 9110, section 15.6",
    ),
    Row(
        meaning=Meaning.REJECTED,
        statuses=range(300, 500),
        example=(
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        ),
        source="FastAPI and Mistral, 422; RFC 9110, section 15.5.1",
    ),
)

TABLE = (*_MONEY, *_RATE_FIRST, *_FILTERED, *_TOO_LARGE, *_NO_MODEL, *_BY_CODE, *_AT_200, *_BY_STATUS)
