"""Keys of other systems, and the key of flowllm that does the same: for hints at unknown keys."""

from __future__ import annotations

import re
from typing import Final

_NEEDS = "write `needs: [id]`; steps that a template refers to are waited for anyway"
_WHEN = 'write `when: "{{ … }}"`'
_FOREACH = 'write `foreach: "{{ list }}"`; templates call each item `item`'
_OUTPUT = "write `output:` with a JSON Schema, or `output: json`"
_RETRY = "write `retry: {max_attempts: 3}`"
_DELAY = "write `retry: {initial_delay: 1s, multiplier: 2}`"
_PROMPT = "write `prompt:`; values go into its text as {{ name }}"
_WITH = "`workflow` and `python` steps take their values by `with: {name: value}`"
_SHELL = "write `shell: command`"
_PYTHON = "write `python: ./file.py:function`"
_WORKFLOW = "write `workflow: ./other.yaml`"
_ONE_KEY = "the key of a step says what it does: `prompt`, `python`, `shell`, …"
_ID = "the key in front of a step is its id"
_RESULT = "the output of a step goes by its id: {{ id }}"
_AT_ONCE = "`max_concurrent` of a foreach, or of `limits`, says how many go at once"

_STEP: Final[dict[str, tuple[str, ...]]] = {
    _NEEDS: ("depends_on", "depends", "after", "upstream", "requires", "dependencies", "wait_for"),
    _WHEN: ("if", "condition", "conditions", "only_if", "run_if", "enabled"),
    _FOREACH: ("loop", "for_each", "for", "each", "map", "with_items", "iterate", "over", "items", "strategy", "matrix"),
    "write `as: name`": ("loop_var", "item_name", "item_var", "var"),
    _OUTPUT: ("schema", "response_format", "json_schema", "output_schema", "response_schema", "format", "json_mode",
              "structured_output", "output_format", "output_type", "response_model"),
    _RETRY: ("retries", "max_retries", "num_retries", "retry_count", "attempts", "max_attempts", "retry_policy"),
    _DELAY: ("retry_delay", "retry_interval", "backoff", "delay"),
    "write `timeout: 30s`": ("timeout_seconds", "timeout_minutes", "timeout_in_seconds", "deadline", "max_time"),
    "write `system:`": ("instructions", "system_prompt", "system_message", "role", "persona"),
    _PROMPT: ("input", "text", "template", "question", "user", "query", "content", "prompt_template", "user_prompt",
              "message", "instruction", "ask"),
    _WITH: ("args", "arguments", "kwargs", "inputs", "parameters", "variables", "vars"),
    _SHELL: ("cmd", "run", "script", "command", "bash", "exec", "sh"),
    _PYTHON: ("function", "func", "callable", "code", "handler", "module"),
    _WORKFLOW: ("uses", "subworkflow", "sub_workflow", "flow", "pipeline", "include", "call", "graph", "steps"),
    "write `http: {url: …}`": ("url", "request", "endpoint", "webhook"),
    "write `embed:`": ("embedding", "embeddings", "texts"),
    "write `value:`": ("set", "const", "expression", "compute", "transform", "data"),
    "write `images:`": ("image", "image_url", "attachments", "files"),
    _ONE_KEY: ("type", "kind", "action", "op", "operator", "tool", "agent", "llm"),
    _ID: ("id", "name", "key", "step", "task"),
    _RESULT: ("outputs", "result", "returns", "return", "output_key", "output_variable", "register", "save_as", "store"),
    "write `save: path`": ("output_file", "save_to", "write_to", "file"),
    "write `temperature:`": ("temp",),
    "write `max_tokens:`": ("max_completion_tokens", "max_output_tokens", "max_length", "max_new_tokens", "token_limit"),
    "write `top_p:`": ("nucleus",),
    "write `stop:`": ("stop_sequences", "stop_words", "stops"),
    "write `model:`": ("engine", "model_name", "model_id", "deployment"),
    "write `provider:`": ("backend", "vendor", "client", "service", "base_url"),
    "write `fallback: [model]`": ("fallbacks", "fallback_model", "fallback_models"),
    "write `samples: 5`": ("n", "num_samples", "best_of", "num_completions"),
    "write `on_error: continue`": ("continue_on_error", "ignore_errors", "allow_failure", "ignore_failure", "on_failure",
                                   "optional", "error_policy", "failure_policy"),
    "write `cache: false`": ("no_cache", "use_cache", "skip_cache"),
    "write `cache: {ttl: 1h}`": ("cache_ttl", "ttl", "cache_key"),
    "write `params: {tools: …}`; the calls that a model asks for are not carried out": ("tools", "functions", "tool_choice"),
    "write `params: {…}`: they are sent as they are": ("reasoning_effort", "logprobs", "frequency_penalty",
                                                       "presence_penalty", "logit_bias", "extra_body", "options", "top_k",
                                                       "min_p", "repetition_penalty", "num_ctx", "verbosity", "thinking",
                                                       "service_tier", "prompt_cache_key", "reasoning"),
    "leave it out: an answer is taken as a whole": ("stream", "streaming"),
    _AT_ONCE: ("concurrency", "parallel", "parallelism", "max_parallel", "max_concurrency", "workers"),
    "leave it out, or write a YAML comment": ("description", "desc", "comment", "notes", "title", "label"),
}  # fmt: skip
_TOP: Final[dict[str, tuple[str, ...]]] = {
    "write `steps:`, a mapping of ids to steps": ("jobs", "tasks", "nodes", "stages", "pipeline", "workflow", "graph",
                                                  "agents", "chain", "flow", "actions", "do"),
    "write `inputs:`": ("params", "parameters", "args", "arguments", "variables", "vars", "input", "input_schema"),
    'write `outputs: {name: "{{ step }}"}`': ("output", "result", "results", "returns", "return"),
    "write `defaults:` with it": ("model", "provider", "temperature", "max_tokens", "retry", "timeout", "cache", "config",
                                  "settings", "llm", "options", "system", "priority", "fallback", "temp", "on_error"),
    "write `secrets: [NAME]`, and `env` in a shell step": ("env", "environment", "secret", "envs"),
    "write `limits:`": ("concurrency", "max_concurrent", "max_concurrency", "rate_limit", "rate_limits", "rpm", "tpm",
                        "parallelism", "throttle"),
    "write `limits: {requests_per_minute: …, tokens_per_minute: …}`": ("requests_per_minute", "tokens_per_minute"),
    "write `name:`": ("title", "id", "workflow_name"),
    _NEEDS: ("edges", "dependencies", "needs"),
    "write `budget: {usd: 5}`": ("max_cost", "cost_limit", "max_usd", "spend_limit"),
    "write `providers:`": ("models", "connections", "backends", "clients", "llms"),
    "leave it out: a file has no version, and nothing in it says when it runs": ("version", "apiversion", "schedule", "on",
                                                                                "trigger", "triggers", "cron"),
    "keys that begin with `x-` are yours": ("metadata", "tags", "labels", "author", "owner"),
}  # fmt: skip
_RETRY_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "write `max_attempts:`": ("attempts", "max_retries", "retries", "count", "times", "max", "limit", "num_retries"),
    "write `initial_delay: 1s`": ("delay", "interval", "wait", "min_delay", "initial_interval", "base_delay", "backoff"),
    "write `max_delay: 60s`": ("max_interval", "max_wait", "maximum_interval"),
    "write `multiplier: 2`": ("factor", "backoff_factor", "exponential", "backoff_coefficient", "exponential_base"),
    "write `attempt_timeout: 5m`": ("timeout", "per_attempt_timeout"),
}  # fmt: skip
_LIMIT_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "write `requests_per_minute:`": ("rpm", "requests", "request_rate", "max_requests_per_minute", "rate"),
    "write `tokens_per_minute:`": ("tpm", "tokens", "max_tokens_per_minute"),
    "write `max_concurrent:`": ("concurrency", "max_concurrency", "parallel", "parallelism", "workers", "concurrent"),
    "write `windows: [{requests: 10, per: 1s}]`": ("rps", "requests_per_second", "requests_per_hour", "requests_per_day",
                                                   "rpd", "window", "requests_per_hour"),
}  # fmt: skip
_MEANT: Final[dict[str, dict[str, str]]] = {
    table: {word.replace("_", ""): hint for hint, words in hints.items() for word in words}
    for table, hints in {"step": _STEP, "top": _TOP, "retry": _RETRY_KEYS, "limits": _LIMIT_KEYS}.items()
}
_KINDS: Final = (_PROMPT, _SHELL, _PYTHON, _WORKFLOW, "write `http", "write `embed", "write `value")


def meant(key: str, table: str) -> str:
    """What to write for a key of another system; empty if none is known. `table`: step, top, retry or limits.

    `dependsOn`, `depends-on` and `depends_on` are the same.
    """
    return _MEANT[table].get(re.sub(r"[-_\s]", "", key).lower(), "")


def kind_meant(key: str) -> str:
    """The same, for a key that says what a step does."""
    hint = meant(key, "step")
    return hint if hint.startswith(_KINDS) else ""
