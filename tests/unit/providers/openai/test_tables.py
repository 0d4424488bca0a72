from __future__ import annotations

import json

import pytest

from flowllm.core.errors import (
    BadAnswer,
    ContentFiltered,
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
from flowllm.core.types import Json
from flowllm.providers.openai.errors import RequestInfo, error_at_200, error_of, parsed, read_error
from flowllm.providers.openai.tables import ERRORS, Row

INFO = RequestInfo(provider="work", server="llm.example.com", model="mini-5")
EXAMPLES: dict[str, tuple[int, Json]] = {
    "DeepSeek, error codes; OpenRouter, errors: 402": (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}}),
    "OpenAI, error codes; Alibaba Model Studio, error codes; Volcengine Ark, error codes; new-api": (429, {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": "insufficient_quota"}}),
    "Anthropic, 400; Moonshot, 429; xAI and SiliconFlow, 403; Hugging Face router, 402; Gemini prepaid, 429": (400, {"error": {"message": "Your credit balance is too low to access the API.", "type": "invalid_request_error", "code": None}}),
    "Moonshot, 429; Zhipu, code 1113; Alibaba, Arrearage; Fireworks, 412; Bedrock; new-api, 403": (429, {"error": {"message": "Your account is suspended, please recharge your account", "type": None, "code": None}}),
    "OpenRouter, limits; xAI, 403; Fireworks, 412; Cohere trial keys, 429": (403, {"error": {"code": 403, "message": "Key limit exceeded (total limit). Manage it in settings"}}),
    "Gemini API, 429: its quotas a minute and a day have the words that are money at OpenAI": (429, [{"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "type": None, "code": 429, "status": "RESOURCE_EXHAUSTED"}}]),
    "OpenAI behind proxies that drop the code": (429, {"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "type": None, "code": None}}),
    "Azure OpenAI, content filtering; Alibaba, data_inspection_failed; OpenRouter, moderation metadata; MiniMax": (400, {"error": {"message": "The response was filtered.", "type": None, "code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "DeepSeek; Moonshot; Anthropic; xAI, 403; OpenRouter, 403; Zhipu, code 1301; LiteLLM guardrails": (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error", "code": "invalid_request_error"}}),
    "SiliconFlow, 451; Portkey's guardrails, 446": (451, {"message": "Unavailable For Legal Reasons"}),
    "OpenAI, error codes; llama.cpp server; Anthropic, 413; GitHub Models, 413": (400, {"error": {"message": "This model's maximum context length is 8192 tokens.", "type": None, "code": "context_length_exceeded"}}),
    "OpenAI, 429; Groq, 413": (429, {"error": {"message": "Request too large for m on tokens per min (TPM): Limit 30000, Requested 45411.", "type": "tokens", "code": "rate_limit_exceeded"}}),
    "llama.cpp server, 500; Anthropic; Gemini; Mistral; vLLM; TGI, 422; Alibaba; Groq; Moonshot; LM Studio": (500, {"error": {"code": 500, "type": "server_error", "message": "input (992 tokens) is too large to process."}}),
    "nginx, client_max_body_size": (413, "<html><head><title>413 Entity Too Large</title></head></html>"),
    "OpenAI, 403 and 404; Groq, 400; Azure, 404; Mistral, 400; GitHub Models; Together; Volcengine": (403, {"error": {"message": "Project `p` does not have access to model `gpt-x`", "type": "invalid_request_error", "code": "model_not_found"}}),
    "DeepSeek, 400; vLLM, Ollama and LM Studio, 404; Gemini, 404; Anthropic, 404; OpenRouter; NVIDIA, 410; Bedrock": (400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error", "code": "invalid_request_error"}}),
    "one-api and new-api, 503": (503, {"error": {"message": "No available channel for model m under group default", "type": None, "code": None}}),
    "OpenAI, 404; LM Studio, `Unexpected endpoint or method` at status 200; Express, Cannot POST": (404, {"error": {"message": "Invalid URL (POST /v2/chat/completions)", "type": "invalid_request_error", "code": None}}),
    "Groq, structured outputs: 400 with failed_generation": (400, {"error": {"message": "Failed to validate JSON.", "type": None, "code": "json_validate_failed", "failed_generation": '{"a": one}'}}),
    "Gemini API, 400; OpenAI, 401; Anthropic, 401 and 403; MiniMax, base_resp": (400, [{"error": {"message": "API key not valid.", "type": None, "code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}]),
    "Google APIs, 403; AWS, ThrottlingException at 400; Alibaba, Throttling; MiniMax, base_resp": (403, {"error": {"message": "User Rate Limit Exceeded", "type": None, "code": 403, "status": "PERMISSION_DENIED", "details": [{"reason": "rateLimitExceeded"}]}}),
    "GitHub, secondary rate limits: 403": (403, {"message": "You have exceeded a secondary rate limit. Please wait."}),
    "OpenAI, error codes; Anthropic, overloaded_error; Gemini, UNAVAILABLE; MiniMax, base_resp": (500, {"error": {"message": "The server had an error", "type": "server_error", "code": "server_error"}}),
    "OpenAI, Responses: `error.code` of an answer whose status is failed": (400, {"error": {"message": "Invalid value: 'x'.", "type": "invalid_request_error", "code": "invalid_value"}}),
    "RFC 9110, sections 15.5.2 and 15.5.4": (401, {"detail": "Unauthorized"}),
    "FastAPI; RFC 9110, sections 15.5.5, 15.5.6 and 15.5.11": (404, {"detail": "Not Found"}),
    "RFC 6585, section 4; 420 as older gateways send it": (429, ""),
    "Groq flex, 498; RFC 8470, 425; WebDAV, 423; TEI and TGI, 424; IIS, 449; AWS ELB, 460; nginx, 499": (498, {"error": {"message": "over capacity, try again later", "type": None, "code": "capacity_exceeded"}}),
    "Anthropic, 529; Cloudflare, 520 to 527; RFC 9110, section 15.6": (529, {"error": {"message": "Overloaded", "type": "overloaded_error", "code": None}}),
    "FastAPI and Mistral, 422; RFC 9110, section 15.5.1": (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
}  # fmt: skip
"""Of each row by its source: status and body as a server sent them."""


def failed(status: int, body: Json) -> StepError:
    text = body if isinstance(body, str) else json.dumps(body)
    return error_of(status, {}, text, INFO, now=0.0)


def error(message: str, code: Json = None, kind: str | None = None) -> Json:
    return {"error": {"message": message, "code": code, "type": kind, "param": None}}


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: f"{row.error.__name__}: {row.source}")
def test_each_row_decides_its_own_example(row: Row) -> None:
    status, body = EXAMPLES[row.source]
    text = body if isinstance(body, str) else json.dumps(body)
    error = read_error(parsed(text), text)
    assert next(one for one in ERRORS if one.fits(status, error.codes, error.text)) is row
    assert type(failed(status, body)) is row.error


def test_each_example_has_a_row() -> None:
    assert EXAMPLES.keys() == {row.source for row in ERRORS}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # money
        (402, "", QuotaExhausted),
        (429, error("You exceeded your current quota, please check your plan and billing details."), QuotaExhausted),
        (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, QuotaExhausted),
        (403, error("Your newly created team doesn't have any credits yet."), QuotaExhausted),
        (403, {"code": "x", "error": "Your team has either used all available credits or reached its monthly spending limit"}, QuotaExhausted),
        (412, {"error": "Account a is suspended, possibly due to reaching the monthly spending limit"}, QuotaExhausted),
        (429, {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试。"}}, QuotaExhausted),
        (400, {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."}, QuotaExhausted),
        (429, [error("Your prepayment credits are depleted.", 429)], QuotaExhausted),
        (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}, QuotaExhausted),
        (400, error("Budget has been exceeded! Current cost: 10.1", "400", "budget_exceeded"), QuotaExhausted),
        (400, error("You have reached your specified API usage limits. You will regain access on 2026-12-01."), QuotaExhausted),
        (403, error("This API method requires billing to be enabled."), QuotaExhausted),
        (429, error("Monthly quota exceeded. Please upgrade your plan."), QuotaExhausted),
        (400, error("ExceededTokenBudget: Current spend for token: 5.1; Max Budget for Token: 5.0", "400", "auth_error"), QuotaExhausted),
        (403, {"message": "INVALID_PAYMENT_INSTRUMENT: A valid payment instrument must be provided."}, QuotaExhausted),
        (403, error("token quota is not enough, token remain quota: $0.1, need quota $0.2", None, "new_api_error"), QuotaExhausted),
        (403, error("该令牌额度已用尽", None, "new_api_error"), QuotaExhausted),
        (429, {"error": "You have run out of free credits; upgrade your plan"}, QuotaExhausted),
        (400, error("Your trial has ended. Please upgrade your plan to continue."), QuotaExhausted),
        # filters
        (400, error("Prompt blocked: SAFETY"), ContentFiltered),
        (403, error("Content moderation failed", "moderation_failed"), ContentFiltered),
        (400, error("This content may violate our policies"), ContentFiltered),
        (403, {"error": {"code": 403, "message": "m requires moderation on X. Your input was flagged", "metadata": {"reasons": ["violence"]}}}, ContentFiltered),
        (400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}}, ContentFiltered),
        (400, {"code": "DataInspectionFailed", "message": "x"}, ContentFiltered),
        (400, error("The request was rejected because it was considered high risk", None, "content_filter"), ContentFiltered),
        (400, error("Output blocked by content filtering policy", None, "invalid_request_error"), ContentFiltered),
        (400, error("Your request was rejected as a result of our safety system."), ContentFiltered),
        (403, {"code": "The caller does not have permission", "error": "Content violates usage guidelines."}, ContentFiltered),
        (400, error("litellm.ContentPolicyViolationError: refused", "400"), ContentFiltered),
        (403, error("Request blocked by Llama Guard"), ContentFiltered),
        (446, error("The guardrail checks defined in the config failed.", None, "hooks_failed"), ContentFiltered),
        (400, error("User input was rejected by moderation"), ContentFiltered),
        # models
        (400, error("The model `m` has been decommissioned and is no longer supported.", "model_decommissioned"), UnknownModel),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}}, UnknownModel),
        (400, {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "code": "1500"}, UnknownModel),
        (404, [{"error": {"code": 404, "message": "models/m is not found for API version v1main", "status": "NOT_FOUND"}}], UnknownModel),
        (404, {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}, UnknownModel),
        (404, error('model "m" not found, try pulling it first'), UnknownModel),
        (404, {"error": "model 'm' not found, try pulling it first"}, UnknownModel),
        (400, {"detail": "m is not a valid model ID"}, UnknownModel),
        (404, error("No endpoints found for m."), UnknownModel),
        (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: m"}}, UnknownModel),
        (410, {"detail": "The model 'm' has reached its end of life on 2026-01-01"}, UnknownModel),
        (404, {"message": "model 'm' was removed on September 15, 2025"}, UnknownModel),
        (400, error("The requested model 'm' is not supported by any provider you have enabled.", "model_not_supported"), UnknownModel),
        (400, error("Model gpt-x is not supported"), UnknownModel),
        (404, error("mini-5 is not available"), UnknownModel),
        (403, error("You are not allowed to use this model: mini-5"), UnknownModel),
        (404, {"message": "This model version has reached the end of its life."}, UnknownModel),
        (400, {"message": "Invocation of model ID mini-5 with on-demand throughput isn't supported."}, UnknownModel),
        (400, error("The model 'mini-5' has been shut down"), UnknownModel),
        (404, {"message": "We couldn't find the model mini-5"}, UnknownModel),
        (400, error("Model 'mini-5' can't be found"), UnknownModel),
        (404, {"title": "Not Found", "detail": "Function '0f-1a': Not found for account 'x'"}, UnknownModel),
        # size
        (400, error("too many tokens: total tokens cannot exceed 4096"), RequestTooLarge),
        (400, error("The total number of tokens exceeds the model's limit"), RequestTooLarge),
        (429, error("Rate limit reached on tokens per min (TPM): Limit 30,000, Used 0, Requested 45,411."), RequestTooLarge),
        (429, error("Requested 45411 tokens, but the limit is 30000 tokens per minute."), RequestTooLarge),
        (429, error("This request needs 1,200 tokens; you are at 900 of your limit of 30,000."), RateLimited),
        (413, error("Request too large for model m: Limit 6000, Requested 7000", "rate_limit_exceeded", "tokens"), RequestTooLarge),
        (400, error("prompt is too long: 210000 tokens > 200000 maximum"), RequestTooLarge),
        (400, [error("The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).", 400)], RequestTooLarge),
        (400, {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}, RequestTooLarge),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"}, RequestTooLarge),
        (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"}}, RequestTooLarge),
        (400, {"error": "Trying to keep the first 5000 tokens when context the overflows."}, RequestTooLarge),
        (400, error("The number of tokens to keep from the initial prompt is greater than the context length."), RequestTooLarge),
        (400, error("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"), RequestTooLarge),
        (400, error("The decoder prompt (length 9000) is longer than the maximum model length of 4096."), RequestTooLarge),
        (400, error("Invalid request: Your request exceeded model token limit: 8192"), RequestTooLarge),
        (400, {"code": 20015, "message": "length of prompt_tokens (9000) must be less than max_seq_len (8192)."}, RequestTooLarge),
        (400, error("Input length 5000 exceeds the maximum length of 4096"), RequestTooLarge),
        (400, error("Number of tokens in prompt 5000 exceeds model context 4096"), RequestTooLarge),
        (400, error("litellm.ContextWindowExceededError: refused"), RequestTooLarge),
        (400, {"message": "Malformed input request: expected maxLength: 20000, actual: 50000"}, RequestTooLarge),
        # rates
        (429, error("Too many tokens per minute"), RateLimited),
        (429, {"message": "Too many tokens, please wait before trying again."}, RateLimited),
        (400, {"__type": "ThrottlingException", "message": "Too many tokens, please wait before trying again."}, RateLimited),
        (429, {"message": "Tokens per minute limit exceeded - too many tokens processed.", "code": "token_quota_exceeded"}, RateLimited),
        (429, error("Rate limit reached. Please add a payment method to your account to increase your rate limit."), RateLimited),
        (429, error("Rate limit reached on requests per day (RPD): Limit 1000, Used 1000, Requested 1."), RateLimited),
        (429, error("Rate limit reached on TPM: Limit 30000, Used 29000, Requested 4541.", "rate_limit_exceeded"), RateLimited),
        (400, {"__type": "com.amazon.coral#ThrottlingException", "message": "slow"}, RateLimited),
        (429, [{"error": {"code": 429, "message": "You exceeded your current quota. Please retry in 3.0s.", "status": "RESOURCE_EXHAUSTED"}}], RateLimited),
        # keys
        (400, error("Authentication failed: no api key"), Unauthorized),
        (400, {"code": "invalid argument", "error": "Incorrect API key provided: x."}, Unauthorized),
        (400, error("Organization has been restricted.", "organization_restricted", "invalid_request_error"), Unauthorized),
        (401, {"error": {"message": "User not found.", "code": 401}}, Unauthorized),
        (403, error("Country, region, or territory not supported", "unsupported_country_region_territory"), Unauthorized),
        (403, "<html><head><title>Attention Required! | Cloudflare</title></head></html>", Unauthorized),
        # what only looks like one of those
        (400, error("Unsupported parameter: 'max_tokens' is not supported with this model.", "unsupported_parameter"), RequestRejected),
        (400, error("`temperature` is deprecated for this model."), RequestRejected),
        (400, error("max_tokens is too large: 100000. This model supports at most 4096 completion tokens"), RequestRejected),
        (422, {"detail": [{"loc": ["body", "messages", 0], "msg": "Field required", "input": "out of credits, content filter"}]}, RequestRejected),
        (400, error("Model mini-5 does not support image input"), RequestRejected),
        (400, error("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."), RequestRejected),
        (404, {"detail": "Not Found"}, PathNotFound),
        (404, "404 page not found", PathNotFound),
        (405, {"detail": "Method Not Allowed"}, PathNotFound),
        (503, error("The model m is currently overloaded. Please try again later."), ServerFailed),
        (503, {"message": "no healthy upstream"}, ServerFailed),
        *((status, error("not now"), ServerFailed) for status in (408, 409, 421, 423, 424, 425, 449, 498, 500, 502, 520, 524, 529)),
        (420, "Enhance your calm", RateLimited),
    ],
)  # fmt: skip
def test_what_servers_say(status: int, body: Json, kind: type[StepError]) -> None:
    assert type(failed(status, body)) is kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "slow down", "type": "None", "param": "None", "code": "429"}}, RateLimited),
        ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, RateLimited),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, QuotaExhausted),
        ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, Unauthorized),
        ({"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}, ContentFiltered),
        ({"base_resp": {"status_code": 1000, "status_msg": "unknown error"}}, ServerFailed),
        ({"base_resp": {"status_code": 7, "status_msg": "something new"}}, BadAnswer),
        ({"error": {"code": 502, "message": "upstream gone"}}, ServerFailed),
        ({"error": {"message": "Content Exists Risk"}}, ContentFiltered),
        ({"error": {"message": "Insufficient Balance"}}, QuotaExhausted),
        ({"error": "Model Not Exist"}, UnknownModel),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, PathNotFound),
        ({"status": "failed", "error": {"code": "invalid_prompt", "message": "bad"}}, RequestRejected),
        ({"error": {"type": "invalid_request_error", "message": "bad"}}, RequestRejected),
        ({"error": {"message": "nobody knows"}}, BadAnswer),
    ],
)
def test_errors_at_status_200(body: dict[str, Json], kind: type[StepError]) -> None:
    found = error_at_200(body, json.dumps(body), INFO)
    assert type(found) is kind
    assert found.answer == json.dumps(body)
