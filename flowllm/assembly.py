"""Puts a run's parts together: the one place, with app.py, that names concrete providers and kinds of steps."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from flowllm.backends.local import LocalBackend
from flowllm.errors import StepError, Unauthorized, UsageError
from flowllm.limits.limiter import tightest
from flowllm.providers.openai import OpenAIProvider
from flowllm.providers.openai_wire import OPENAI_BASE_URL, OPENAI_HOST, OpenAIConfig
from flowllm.providers.simulated import SimulatedConfig, SimulatedProvider
from flowllm.spec.workflow import LlmBody
from flowllm.steps.llm import LlmKind
from flowllm.steps.python import PythonKind
from flowllm.steps.value import ValueKind
from flowllm.types import Limits, StepId, StepKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowllm.calls.flight import Flights
    from flowllm.clock import Clock
    from flowllm.limits.limiter import Limiter
    from flowllm.providers.base import Provider
    from flowllm.providers.openai import ClientPool
    from flowllm.redact import Redactor
    from flowllm.spec.workflow import ProviderSettings, Step, Workflow

AUTO = "auto"
SIMULATED = "simulated"
OPENAI = "openai"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def resolve_auto(name: str, environ: Mapping[str, str]) -> str:
    """What `auto` means here: openai if a key or a base URL is set, else simulated. Other names stay."""
    if name != AUTO:
        return name
    return OPENAI if environ.get("OPENAI_API_KEY") or environ.get("OPENAI_BASE_URL") else SIMULATED


class Providers:
    """The providers of one run, each made when it is first needed."""

    def __init__(
        self,
        workflow: Workflow,
        *,
        environ: Mapping[str, str],
        pool: ClientPool,
        clock: Clock,
        redactor: Redactor,
        prices: Mapping[str, Mapping[str, float]],
        all_simulated: bool = False,
    ) -> None:
        self._workflow = workflow
        self._environ = environ
        self._pool = pool
        self._clock = clock
        self._redactor = redactor
        self._prices = prices
        self._all_simulated = all_simulated
        self._made: dict[str, Provider] = {}

    @property
    def default(self) -> str:
        """The name of the default provider, `auto` resolved."""
        return self._resolve(self._workflow.default_provider)

    def get(self, name: str) -> Provider:
        """The provider of that name. Raises UsageError for an unknown one, or one that lacks what it needs."""
        resolved = self._resolve(name)
        if resolved not in self._made:
            settings = self._workflow.providers.get(resolved)
            if settings is None:
                known = ", ".join(self._workflow.providers)
                raise UsageError(f"there is no provider {resolved!r}", hint=f"there are: {known}")
            self._made[resolved] = self._make(settings)
        return self._made[resolved]

    def for_step(self, name: str) -> Provider:
        """As `get`, for a name that a template gave while the run goes on."""
        try:
            return self.get(name)
        except UsageError as error:
            raise Unauthorized(error.message, hint=error.hint) from None

    def configure(
        self, limiter: Limiter, steps: Mapping[StepId, Step], *, holder: object, cap: int | None
    ) -> None:
        """Make every provider that the run names, and tell the limiter its limits; `cap` lowers concurrency."""
        for name in dict.fromkeys(self._named(steps)):
            provider = self.get(name)
            limits = self._limits(self._resolve(name))
            if cap is not None:
                limits = replace(limits, max_concurrent=min(cap, limits.max_concurrent))
            limiter.configure(provider.account, limits, holder=(holder, self._resolve(name)))

    def _named(self, steps: Mapping[StepId, Step]) -> Iterator[str]:
        """The names that can be known before the run; those that templates will give come from `providers`."""
        for step in steps.values():
            if not isinstance(step.body, LlmBody):
                continue
            targets = [
                step.body.provider,
                *(target.provider for target in step.body.fallback if target.provider),
            ]
            for target in targets:
                try:
                    yield str(target.render({}))
                except StepError:
                    yield from (name for name, found in self._workflow.providers.items() if found.limits)

    def _limits(self, name: str) -> Limits:
        own = self._workflow.providers[name].limits
        shared = self._workflow.limits if name == self.default else None
        if own is not None and shared is not None:
            return tightest(own, shared)
        return own or shared or Limits()

    def _resolve(self, name: str) -> str:
        return SIMULATED if self._all_simulated else resolve_auto(name, self._environ)

    def _make(self, settings: ProviderSettings) -> Provider:
        if settings.type == SIMULATED:
            return SimulatedProvider(
                SimulatedConfig(
                    name=settings.name,
                    seed=settings.seed,
                    latency=settings.latency,
                    latency_sigma=settings.latency_sigma,
                    error_rate=settings.error_rate,
                    rate_limit_rate=settings.rate_limit_rate,
                    enforce=settings.enforce,
                ),
                clock=self._clock,
            )
        return OpenAIProvider(
            self._openai(settings), pool=self._pool, redactor=self._redactor, clock=self._clock
        )

    def _openai(self, settings: ProviderSettings) -> OpenAIConfig:
        built_in = settings.base_url is None
        base_url = settings.base_url or self._environ.get("OPENAI_BASE_URL") or OPENAI_BASE_URL
        variable = settings.api_key_env or ("OPENAI_API_KEY" if built_in else "")
        key = self._environ.get(variable, "") if variable else ""
        if not key and (settings.api_key_env or (built_in and OPENAI_HOST in base_url)):
            raise UsageError(
                f"provider {settings.name!r} needs a key, and {variable} is not set",
                hint=f"export {variable}=…, or run with `--provider simulated` to try the workflow without a model",
            )
        return OpenAIConfig(
            name=settings.name,
            base_url=base_url,
            api_key=key,
            api_key_env=variable or "api_key_env",
            api=settings.api,
            headers={name: self._expand(name, text) for name, text in settings.headers.items()},
            structured=settings.structured,
            max_tokens_field=settings.max_tokens_field,
            prices=self._prices,
        )

    def _expand(self, header: str, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] not in self._environ:
                raise UsageError(
                    f"header {header} needs {match[1]}, which is not set", hint=f"export {match[1]}=…"
                )
            return self._environ[match[1]]

        return _VARIABLE.sub(value, text)


def read_secrets(workflow: Workflow, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The values of the workflow's secrets. Raises UsageError that names every one that is not set."""
    missing = [name for name in workflow.secrets if name not in environ]
    if missing:
        raise UsageError(f"secrets that are not set: {', '.join(missing)}", hint=f"export {missing[0]}=…")
    return {name: environ[name] for name in workflow.secrets}


def local_backend(
    workflow: Workflow, providers: Providers, flights: Flights, secrets: Mapping[str, str], redactor: Redactor
) -> LocalBackend:
    """All kinds of steps, carried out in this process."""
    return LocalBackend(
        {
            StepKind.PROMPT: LlmKind(providers.for_step, flights),
            StepKind.PYTHON: PythonKind(workflow.files, secrets, redactor),
            StepKind.VALUE: ValueKind(),
        }
    )
