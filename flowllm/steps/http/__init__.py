"""`http` steps: one request to a server of anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.core.types import StepKind
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.compiling import texts_by_name
from flowllm.language.file_keys import StepKeys
from flowllm.language.keys import REQUIRED, Key, Keys, nested
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.problems import SourceError
from flowllm.language.values import is_template
from flowllm.language.workflow import HttpBody
from flowllm.steps.registry import StepKindPackage

if TYPE_CHECKING:
    from flowllm.steps.http.runner import HttpRunner
    from flowllm.steps.registry import RunnerServices


class HttpRequestKeys(Keys, title="HTTP request"):
    """One HTTP request."""

    url = Key(v.text, "http or https; may hold {{ secrets.NAME }}.", REQUIRED)
    method = Key(
        v.choice("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
        "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.",
        "GET",
    )
    headers = Key(sv.texts_by_name(v.HEADER_NAME, "a header"), "By name; may hold {{ secrets.NAME }}.")
    query = Key(sv.query, "Parameters that are added to the URL; may hold {{ secrets.NAME }}.")
    json = Key(v.anything, "Body, sent as JSON.")
    body = Key(v.written, "Body, sent as it is.")
    allow_private = Key(v.boolean, "Private, loopback and link-local addresses may be asked.", default=False)


class HttpKeys(StepKeys, title="http step"):
    """One HTTP request; the output is {status, headers, body}."""

    http = Key(nested(HttpRequestKeys, "http"), "{method, url, headers, query, json, body}.", REQUIRED)


def build(keys: HttpKeys, context: StepContext) -> HttpBody | None:
    """A step that sends one request."""
    asked, compiler = keys.http, context.compiler
    if asked.json is not None and asked.body is not None:
        raise SourceError(asked.body.where, "`json` and `body` exclude each other", "remove one of them")
    if not is_template(asked.url.text) and not asked.url.text.startswith(("http://", "https://")):
        raise SourceError(
            asked.url.where, f"`{asked.url.text}` is not an address", "it begins with https:// or http://"
        )
    url = compiler.text(asked.url, secrets=True)
    if url is None:
        return None
    return HttpBody(
        url=url,
        method=asked.method,
        headers=texts_by_name(asked.headers, compiler),
        query=compiler.optional(asked.query, secrets=True),
        json=compiler.optional(asked.json),
        body=None if asked.body is None else compiler.text(asked.body),
        allow_private=asked.allow_private,
    )


def make_runner(services: RunnerServices) -> HttpRunner:
    """What runs these steps within one run."""
    from flowllm.steps.http.runner import HttpRunner  # noqa: PLC0415 - checking a workflow needs none

    return HttpRunner(services.calls, services.secrets, services.redactor)


KIND = StepKindPackage(
    specs=(StepKindSpec(key="http", kind=StepKind.HTTP, keys=HttpKeys, build=build),), runner=make_runner
)
