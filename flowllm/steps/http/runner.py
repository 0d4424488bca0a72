"""`http`: one request to a server of anybody's; the output is its status, headers and body.

Only public addresses are asked unless the step says otherwise. What is judged is the very address that the connection
goes to, for each redirect anew, so that no name that resolves to something else a moment later gets past.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Final, cast

from flowllm.calls.single_flight import InFlightCalls
from flowllm.core import descriptors
from flowllm.core.cancel import being_cancelled
from flowllm.core.errors import HttpFailed, StepError, TemplateFailed
from flowllm.core.fingerprint import fingerprint
from flowllm.core.records import dataclass
from flowllm.core.redact import Redactor
from flowllm.core.types import Json
from flowllm.language.workflow import HttpBody, Step
from flowllm.steps.base import Bound, NodeContext, WorkEstimate
from flowllm.steps.http.transport import MOST_REQUESTS, Request, Wire, blocked, checked_url, describe_error, described
from flowllm.steps.pipeline import LocalWork, run_local, too_late
from flowllm.storage.base import NodeRecord

SHOWN_URL = 200
"""Characters."""
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""In the value of a header."""


class HttpRunner:
    """Steps that send a request. One of these serves a whole run; `close` it."""

    def __init__(
        self, calls: InFlightCalls, secrets: Mapping[str, str], redactor: Redactor, *, wire: Wire | None = None
    ) -> None:
        self._calls = calls
        self._secrets = secrets
        self._redactor = redactor
        self.slots = {"http": min(MOST_REQUESTS, descriptors.left())}
        """How many requests are out at the same time."""
        self._wire = wire or Wire()

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The request, once as it is and once with secrets masked, for the key."""
        body = cast("HttpBody", step.body)
        masked = {name: f"***{name}***" for name in self._secrets}
        shown = _address(body, {**values, "secrets": masked})
        real = _address(body, {**values, "secrets": self._secrets}) if self._secrets else shown
        self._redactor.derive(real.as_list(), shown.as_list())
        url = checked_url(real.url, self._redactor.text)
        sent = None if body.json is None else body.json.render(values)
        text = None if body.body is None else body.body.text(values)
        parts = {
            "kind": "http",
            "method": body.method,
            "url": shown.url.strip(),
            "headers": shown.headers,
            "query": [list(pair) for pair in shown.query],
            "json": sent,
            "body": text,
        }
        return Bound(
            step=step,
            key=fingerprint(parts),
            parts=parts,
            work=Request(
                method=body.method,
                url=url,
                headers=_typed(real.headers, body),
                query=real.query,
                body=_encoded(sent, text, json_given=body.json is not None),
                allow_private=body.allow_private,
            ),
        )

    def work(self, bound: Bound) -> WorkEstimate:
        """No tokens; what it gives is known before only if it is in the cache."""
        return WorkEstimate(memo_keys=(bound.key,) if bound.step.cache.enabled else ())

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Send it, again where the step's `retry` says so."""
        request = cast("Request", bound.work)

        async def perform(limit: float, left: float) -> Json:
            return await self._once(request, left, limit, context.clock.now)

        work = LocalWork(name="http", account="http", perform=perform)
        return await run_local(self._calls, work, bound, context)

    async def close(self) -> None:
        """Give back the connections."""
        await self._wire.close()

    async def _once(self, request: Request, left: float, limit: float, now: Callable[[], float]) -> Json:
        # aiohttp takes a tenth of a second to import, which a run without such a step should not pay
        import aiohttp  # noqa: PLC0415

        shown = self._redactor.text(request.url).partition("?")[0][:SHOWN_URL]
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                return await self._wire.send(request, shown=shown, mask=self._redactor.text, now=now)
        except StepError:
            raise
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise HttpFailed(f"{shown}: the connection was given up", retryable=True) from None
        except TimeoutError:
            if deadline.expired():
                then = "the server may have done what it was asked all the same"
                raise too_late(f"{shown} did not answer", limit, then, attempt=limit < left) from None
            raise HttpFailed(f"{shown}: the connection timed out", retryable=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failure(shown, error) from None

    def _failure(self, shown: str, error: Exception) -> HttpFailed:
        refused = blocked(error)
        if refused is not None:
            by = f"redirects to {refused.through}, which leads to" if refused.through else "leads to"
            kind = described(refused.address)
            return HttpFailed(
                f"{shown} {by} {refused.address} ({kind}), which is not a public address, and is not asked",
                hint="`http` steps ask public addresses alone; `allow_private: true` in this step's `http` allows all others",
            )
        said = self._redactor.text(describe_error(error))
        return HttpFailed(f"{shown}: {said}", retryable=not isinstance(error, ValueError))


# binding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """What of a request secrets may stand in."""

    url: str
    headers: Mapping[str, str]
    query: tuple[tuple[str, str], ...]

    def as_list(self) -> list[Json]:
        """All of it as JSON."""
        return [self.url, dict(self.headers), [list(pair) for pair in self.query]]


def _address(body: HttpBody, values: Mapping[str, Json]) -> _Address:
    return _Address(
        url=body.url.text(values),
        headers=_headers(body, values),
        query=_query({} if body.query is None else body.query.render(values)),
    )


def _headers(body: HttpBody, values: Mapping[str, Json]) -> dict[str, str]:
    rendered = {} if body.headers is None else body.headers.render(values)
    headers = {name: _plain(value) for name, value in rendered.items()}
    for name, value in headers.items():
        if _FORBIDDEN.search(value):
            raise TemplateFailed(
                f"the header {name} has a line break or another control character in it",
                hint="`| replace('\\n', ' ')` takes line breaks out",
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise TemplateFailed(f"the header {name} has half a character in it") from None
    return headers


def _typed(headers: Mapping[str, str], body: HttpBody) -> Mapping[str, str]:
    """With the type of a JSON body, where the author names none."""
    if body.json is None or any(name.lower() == "content-type" for name in headers):
        return headers
    return {**headers, "Content-Type": "application/json"}


def _query(rendered: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for name, value in rendered.items():
        if value is not None:
            pairs += [(name, _plain(one)) for one in (value if isinstance(value, list) else [value])]
    return tuple(pairs)


def _plain(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encoded(sent: Json, text: str | None, *, json_given: bool) -> bytes | None:
    if json_given:
        return json.dumps(sent).encode()
    return None if text is None else text.encode(errors="replace")
