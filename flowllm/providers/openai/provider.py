"""Servers that speak OpenAI's API: OpenAI itself, and what is built like it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from flowllm.core.clock import Clock
from flowllm.core.errors import AttemptTimedOut, BadAnswer, RateLimited, ServerFailed, StepError, UsageError
from flowllm.core.fingerprint import digest
from flowllm.core.garbage import importing
from flowllm.core.records import dataclass, replace
from flowllm.core.redact import SECRET_NAME, Redactor, is_placeholder
from flowllm.core.request import ChatRequest, Completion, Embeddings, EmbedRequest, Request
from flowllm.core.retry_after import requested_wait
from flowllm.core.types import Json, Usage
from flowllm.providers.base import Account
from flowllm.providers.openai.answer import decode
from flowllm.providers.openai.errors import LARGEST_ERROR_BODY, LONGEST_RAW, RequestInfo, error_of, masked_body
from flowllm.providers.openai.request import OPENAI_HOST, OpenAIConfig, copies_texts, encode, with_images
from flowllm.providers.openai.usage import list_price, price_usd, reported_cost
from flowllm.providers.openai.vectors import decode_embeddings

if TYPE_CHECKING:
    import httpx2

    from flowllm.providers.openai.client import Client


R = TypeVar("R", "Completion", "Embeddings")

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes; one answer is never larger."""
LARGEST_VECTOR = 256 * 1024
"""Bytes that each text may add to an answer of many embeddings."""
_KEPT_HEADERS = re.compile(r"((x-|anthropic-)?ratelimit.*)|retry-after(-ms)?|x-request-id", re.IGNORECASE)
_KEY_HASH_DIGITS = 8
_STREAM_TAIL = 32
"""Bytes in which the end of a stream stands, with blanks behind it."""
_HASH_DIGITS = 16
_OK = 200
_TOOLS = ("tools", "functions")


class ClientPool:
    """The connections of a process, shared by all its providers; made at first use, in the loop that uses them.

    A proxy of the environment is used for https only, where it sees no more than the host's name. Over plain http
    it would be handed the key and the prompt: there it is never used.
    """

    def __init__(self) -> None:
        self._clients: dict[bool, httpx2.AsyncClient] = {}
        self._loading = asyncio.Lock()
        self.loaded: ModuleType | None = None
        """What `module` gives, once it is there."""

    async def module(self) -> ModuleType:
        """flowllm.providers.openai.client, imported in a thread, with the price tables that the first answer will need."""
        async with self._loading:
            if self.loaded is None:
                self.loaded = await asyncio.to_thread(_import_client)
        return self.loaded

    async def http(self, *, secure: bool) -> httpx2.AsyncClient:
        """The connections to https servers, or to http ones."""
        module = await self.module()
        if secure not in self._clients:
            self._clients[secure] = module.http_client(through_proxy=secure)
        return self._clients[secure]

    async def close(self) -> None:
        """Close every connection, for good."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()


def _import_client() -> ModuleType:
    # openai takes 1.1 s to import, genai_prices 350 ms: most commands of flowllm need neither.
    with importing():
        import genai_prices  # noqa: F401, PLC0415

        from flowllm.providers.openai import client  # noqa: PLC0415

    return client


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """A base URL taken apart."""

    url: str
    """Without credentials, query and fragment."""
    server: str
    """host, or host:port."""
    host: str
    secure: bool
    query: tuple[tuple[str, str], ...]
    user: str
    password: str

    @property
    def basic(self) -> str:
        """The credentials as HTTP Basic authentication wants them; empty if there are none."""
        both = f"{self.user}:{self.password}"
        return base64.b64encode(both.encode()).decode() if self.user or self.password else ""


def _address(config: OpenAIConfig) -> _Address:
    try:
        parts = urlsplit(config.base_url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(
            f"the base URL of provider {config.name!r} is not a URL", hint="write it like https://llm.example.com/v1"
        )
    shown = f"[{host}]" if ":" in host else host
    server = f"{shown}:{port}" if port else shown
    return _Address(
        url=urlunsplit((parts.scheme, server, parts.path.rstrip("/"), "", "")),
        server=server,
        host=host,
        secure=parts.scheme == "https",
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


class OpenAIProvider:
    """One server and one key. Every request is sent once; retries are made where attempts are recorded."""

    def __init__(self, config: OpenAIConfig, *, pool: ClientPool, redactor: Redactor, clock: Clock) -> None:
        """Raises UsageError for a base URL, key or header that cannot be sent. `redactor` learns what is secret."""
        self.name = config.name
        self._config = config
        self._pool = pool
        self._clock = clock
        self._address = _address(config)
        self._key = config.api_key.strip()
        self._headers = _checked_headers(config, self._key)
        if self._address.basic and not self._key and "authorization" not in map(str.lower, self._headers):
            self._headers["Authorization"] = f"Basic {self._address.basic}"
        self._client: Client | None = None
        self._in_answers = Redactor(self._secrets(everything=False))
        """What is secret by its name; a word that some other header has may well be the answer."""
        redactor.add(self._secrets(everything=False))
        self._redactor = Redactor(self._secrets(everything=True))
        self.account = Account(
            type="openai",
            base_url=self._address.url,
            extras=self._key_extras(),
            key_hash=hashlib.sha256(self._key.encode()).hexdigest()[:_KEY_HASH_DIGITS] if self._key else "",
        )

    def _secrets(self, *, everything: bool) -> list[str]:
        """What may stand in no text; `everything`: all values of headers and query, not only those named like one."""
        address = self._address
        raw = urlsplit(self._config.base_url).password or ""
        key = "" if is_placeholder(self._key) else self._key
        found = [*self._config.secrets, key, address.password, address.basic, raw]
        for name, value in (*self._headers.items(), *address.query):
            if everything or SECRET_NAME.search(name):
                found += [value, value.partition(" ")[2]]
        return found

    def _key_extras(self) -> dict[str, Json]:
        """Headers and query as they are part of keys: secrets by their names alone."""
        secrets = [secret for secret in (self._key, *self._config.secrets) if secret]

        def hashed(pairs: Iterable[tuple[str, str]]) -> dict[str, Json]:
            found: dict[str, Json] = {}
            for name, value in pairs:
                hidden = SECRET_NAME.search(name) or any(one in value for one in secrets)
                found[name] = None if hidden else digest(f"{found.get(name, '')}{value}")[:_HASH_DIGITS]
            return found

        headers = hashed((name.lower(), value) for name, value in self._config.headers.items())
        sent = {"headers": headers, "query": hashed(self._address.query)}
        return {name: values for name, values in sent.items() if values}

    def encode(self, request: Request) -> dict[str, Json]:
        """The body that is sent for this request."""
        return encode(request, self._config)

    def copies_texts(self, request: ChatRequest) -> bool:
        """See CopiesTexts."""
        return copies_texts(request)

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:
        """US dollars, None where the price is unknown."""
        return price_usd(model, usage, base_url=self._address.url, prices=self._config.prices, tier=tier)

    async def ready(self) -> None:
        """Import the client and open the pool of connections, once."""
        await self._connected()

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        """Send the request once; see Provider.complete."""
        info = self._request_info(request)
        body = self.encode(request)
        if request.images:
            body = await asyncio.to_thread(with_images, body, request.images)
        raw, headers = await self._post(body, self._config.api, info, timeout, largest=LARGEST_ANSWER)
        raw = masked_body(raw, self._in_answers)
        return self._decoded(lambda: decode(raw, api=self._config.api, info=info), headers, info)

    async def embed(self, request: EmbedRequest, *, timeout: float) -> Embeddings:
        """Ask for the vectors of all its texts once; see Provider.embed."""
        info = self._request_info(request)
        largest = LARGEST_ANSWER + LARGEST_VECTOR * len(request.texts)
        raw, headers = await self._post(self.encode(request), "embeddings", info, timeout, largest=largest)
        try:
            vectors = decode_embeddings(raw, request, info)
        except StepError:  # what is quoted of it may not be cut within a secret; vectors need no looking through
            raw = masked_body(raw, self._redactor)
            return self._decoded(lambda: decode_embeddings(raw, request, info), headers, info)
        return self._with_headers(vectors, headers, info)

    def _request_info(self, request: Request) -> RequestInfo:
        return RequestInfo(
            provider=self.name,
            server=self._address.server,
            model=request.model,
            key_env=self._config.api_key_env,
            at=self._clock.now(),
            tools=isinstance(request, ChatRequest) and any(request.params.get(name) for name in _TOOLS),
        )

    def _decoded(self, decoded: Callable[[], R], headers: Mapping[str, str], info: RequestInfo) -> R:
        """What an answer means, or the error that it stands for, without secrets that a server echoes."""
        try:
            reply = decoded()
            return self._with_headers(reply, headers, info)
        except StepError as error:
            failure = error
        if isinstance(failure, RateLimited | ServerFailed) and failure.retry_after is None:
            failure.retry_after = requested_wait(headers, None, "", now=self._clock.now())
        failure.cost_usd = reported_cost(headers)
        raise self._redacted(failure)

    async def _post(
        self, body: Mapping[str, Json], api: str, info: RequestInfo, timeout: float, *, largest: int
    ) -> tuple[bytes, Mapping[str, str]]:
        """Send a body and give the whole answer and its headers, in lower case; every fault is one of our errors."""
        client, module = await self._connected()
        try:
            async with asyncio.timeout(timeout) as deadline:
                response = await client.send(body, api=api)
                try:
                    raw = await _read_body(module.content_of(response), info, largest, self._redactor)
                finally:
                    await response.aclose()
                return raw, _headers_of(response)
        except StepError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever the client raises becomes one of our errors
            failure = self._error_of(error, info, module)
            if deadline.expired():
                failure = AttemptTimedOut(
                    f"{info.who} gave no whole answer within {timeout:g} s",
                    hint="raise `retry.attempt_timeout`, or lower max_tokens",
                )
        # Raised out here so that the client's own error, which holds the request and its headers, is no context.
        raise self._redacted(failure)

    async def _connected(self) -> tuple[Client, ModuleType]:
        if self._client is not None and self._pool.loaded is not None:
            return self._client, self._pool.loaded
        module = await self._pool.module()
        try:
            http = await self._pool.http(secure=self._address.secure)
        except OSError as error:
            failure: StepError = module.bad_certificates(error)
            raise failure from None
        if self._client is None:
            self._client = module.openai_client(
                http,
                base_url=self._address.url,
                api_key=self._key,
                headers=self._headers,
                query=dict(self._address.query),
                own_host=self._address.host == OPENAI_HOST,
            )
        return self._client, module

    def _error_of(self, error: Exception, info: RequestInfo, module: ModuleType) -> StepError:
        """What the client raised, as one of our errors."""
        response = getattr(error, "response", None)
        if response is not None:
            headers = {name.lower(): self._redactor.text(value) for name, value in response.headers.items()}
            text = masked_body(response.text.encode(errors="replace"), self._redactor).decode()
            if len(response.content) >= LARGEST_ERROR_BODY:
                text = self._redactor.partial(text, lost="end")
            return error_of(response.status_code, headers, text, info, now=self._clock.now())
        failure: StepError = module.connection_error(error, info)
        return failure

    def _with_headers(self, reply: R, headers: Mapping[str, str], info: RequestInfo) -> R:
        """The reply with what the headers say of it, without secrets."""
        mask = self._in_answers.text
        kept = {name: mask(value) for name, value in headers.items() if _KEPT_HEADERS.fullmatch(name)}
        identity = mask(headers.get("x-request-id", reply.request_id))
        cost = reported_cost(headers)
        models = () if cost is not None else (reply.model, info.model)
        found = (list_price(model, base_url=self._address.url, prices=self._config.prices) for model in models)
        listed = next(filter(None, found), "")
        return replace(
            reply, model=mask(reply.model), headers=kept, request_id=identity, cost_usd=cost, list_price=listed
        )

    def _redacted(self, error: StepError) -> StepError:
        error.message = self._redactor.text(error.message)
        error.hint = self._redactor.text(error.hint)
        error.answer = None if error.answer is None else self._redactor.text(error.answer)
        error.args = (error.message,)
        error.__cause__ = error.__context__ = None
        return error


def _headers_of(response: httpx2.Response) -> dict[str, str]:
    """The headers by name in lower case. Read from the raw bytes: the response itself looks for their encoding anew
    for each of them."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}


async def _read_body(content: AsyncIterator[bytes], info: RequestInfo, largest: int, redactor: Redactor) -> bytes:
    """The body, given up as soon as it is larger than that many bytes."""
    body = bytearray()
    async for chunk in content:
        body += chunk
        if len(body) > largest:
            raise BadAnswer(
                f"{info.who} sent more than {largest // 2**20} MiB; one answer is never that large",
                hint="lower max_tokens, or ask for less in one answer",
                answer=redactor.partial(bytes(body[:LONGEST_RAW]).decode(errors="replace"), lost="end"),
                status=_OK,
            )
        if body[-_STREAM_TAIL:].rstrip().endswith(b"data: [DONE]"):
            break  # the connection of a stream may stay open
    return bytes(body)


def _checked_headers(config: OpenAIConfig, key: str) -> dict[str, str]:
    """The headers. Raises UsageError for a key or header that HTTP cannot carry, without showing its value."""
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the API key of provider {config.name!r} has characters that no key has",
            hint=f"check the environment variable {config.api_key_env}" if config.api_key_env else "",
        )
    for name, value in config.headers.items():
        if not (re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and value.isascii() and value.isprintable()):
            raise UsageError(
                f"the header {name!r} of provider {config.name!r} cannot be sent",
                hint="names and values of headers are printable ASCII",
            )
    return dict(config.headers)
