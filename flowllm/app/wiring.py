"""Puts a run's parts together: the one place, with flowllm.py, that names concrete providers and kinds of steps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from flowllm.calls.single_flight import InFlightCalls
from flowllm.cluster.base import Cluster, cluster_address, travelling
from flowllm.cluster.process import RayCluster
from flowllm.core.clock import Clock
from flowllm.core.errors import StepError, Unauthorized, UsageError
from flowllm.core.records import dataclass, replace
from flowllm.core.redact import SECRET_NAME, Redactor, is_placeholder, looks_secret, passwords_of
from flowllm.core.types import Limits, StepKind, Usage
from flowllm.language.workflow import EmbedBody, LlmBody, ProviderSettings, PythonBody, Step, Workflow
from flowllm.limits.limiter import Limiter, tightest
from flowllm.providers.base import Account, Provider
from flowllm.providers.openai.provider import ClientPool, OpenAIProvider
from flowllm.providers.openai.request import OPENAI_BASE_URL, OPENAI_HOST, OpenAIConfig
from flowllm.providers.openai.usage import list_price
from flowllm.providers.simulated.provider import SimulatedConfig, SimulatedProvider
from flowllm.runtime.options import MaxConcurrent
from flowllm.steps.base import StepRunner
from flowllm.steps.registry import RunnerServices, step_runners

AUTO = "auto"
SIMULATED = "simulated"
OPENAI = "openai"


VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_CERTAIN = 8
"""Characters from which on a value that stands in another variable too is no coincidence."""
DATABASE = "FLOWLLM_DATABASE_URL"


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
        prices: Mapping[str, Mapping[str, float]],
        all_simulated: bool = False,
        database: str = "",
    ) -> None:
        self._workflow = workflow
        self.environ = environ
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._all_simulated = all_simulated
        self._made: dict[str, Provider] = {}
        self._claim: Callable[[str, Provider], None] | None = None
        credentials = find_credentials(workflow.providers.values(), environ, database)
        self.redactor = Redactor({*credentials.values, *workflow.literals})
        """Knows what is secret to the run: of all providers, also of those that no step has named yet."""
        self.private = credentials.variables - set(workflow.secrets)
        """Variables of the environment that nothing sees which a step starts."""
        for settings in workflow.providers.values():
            with contextlib.suppress(UsageError):  # one that a step uses is told of where it is needed
                self._make(settings)

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
            made = self._made[resolved] = self._make(settings)
            if self._claim is not None:
                self._claim(resolved, made)
        return self._made[resolved]

    def for_step(self, name: str) -> Provider:
        """As `get`, for a name that a template gave while the run goes on."""
        try:
            return self.get(name)
        except UsageError as error:
            raise Unauthorized(error.message, hint=error.hint) from None

    def check(self, steps: Iterable[Step]) -> None:
        """Make every provider that can be known before the run. Raises UsageError as `get` does."""
        for _, body in _asking(steps):
            for name in _names(body):
                self.get(name)

    def claim(
        self,
        limiter: Limiter,
        *,
        holder: object,
        cap: MaxConcurrent | None,
        most: int | None = None,
        ceiling: int | None = None,
        found: Callable[[Account], None] | None = None,
    ) -> None:
        """Tell the limiter what this run allows on each provider, also on those that templates will name.

        It holds until `holder` withdraws. `cap` stands in place of the default provider's number, and lowers others unless it is auto;
        `most` lowers what is written, `ceiling` bounds what is found. `found` hears of each that templates will name.
        """

        def claim(name: str, provider: Provider) -> None:
            limits = self.limits(name, cap, ceiling)
            if limits.max_concurrent is not None and most is not None:
                limits = replace(limits, max_concurrent=min(limits.max_concurrent, most))
            limiter.configure(provider.account, limits, holder=holder)

        def claim_later(name: str, provider: Provider) -> None:
            claim(name, provider)
            if found is not None:
                found(provider.account)

        self._claim = claim_later
        for name, provider in self._made.items():
            claim(name, provider)

    def accounts(self) -> set[Account]:
        """The accounts of the providers that were needed so far."""
        return {provider.account for provider in self._made.values()}

    def named_accounts(self) -> Mapping[str, Account]:
        """The same, by the names that the workflow gives its providers."""
        return {name: provider.account for name, provider in self._made.items()}

    def addresses(self) -> Mapping[str, str]:
        """Host and port of those whose requests go somewhere, by name."""
        found = ((name, urlsplit(provider.account.base_url).netloc) for name, provider in self._made.items())
        return {name: place for name, place in found if place}

    def models(self, steps: Iterable[Step]) -> dict[Account, set[str]]:
        """The models of each account that can be known before the run."""
        found: dict[Account, set[str]] = {account: set() for account in self.accounts()}
        for _, body in _asking(steps):
            for provider, model in _models(body):
                found.setdefault(self.get(provider).account, set()).add(model)
        return found

    def check_prices(self, steps: Iterable[Step]) -> None:
        """Raises UsageError if a model has no known price: a budget in dollars could not be kept."""
        for step, body in _asking(steps):
            for provider, model in _models(body):
                if self.get(provider).cost(model, Usage(input_tokens=1, output_tokens=1)) is None:
                    raise UsageError(
                        f"the budget is in dollars, and the price of {model} (step {step.id}) is not known",
                        hint=f"put it under `prices` in flowllm.yaml: {model}: {{input: 0.15, output: 0.60}}",
                    )

    def limits(self, name: str, cap: MaxConcurrent | None = None, ceiling: int | None = None) -> Limits:
        """What a run allows on a provider, by its name as it was made; `cap` and `ceiling` as for `claim`."""
        own = self._workflow.providers[name].limits
        is_default = name == self.default
        shared = self._workflow.limits if is_default else None
        limits = tightest(own, shared) if own is not None and shared is not None else own or shared or Limits()
        if cap is None or isinstance(cap, str):
            written = limits.max_concurrent if cap is None or not is_default else None
            return replace(limits, max_concurrent=written, ceiling=ceiling)
        if is_default or limits.max_concurrent is not None:
            return replace(limits, max_concurrent=cap if is_default else min(cap, limits.max_concurrent or cap))
        return replace(limits, ceiling=min(cap, ceiling or cap))

    def list_price(self, name: str, model: str) -> str:
        """The model, as `openai/gpt-4o-mini`, whose list price stands in for that of a provider's own; empty where none
        does."""
        settings = self._workflow.providers.get(name)
        if settings is None or settings.type == SIMULATED:
            return ""
        return list_price(model, base_url=self.get(name).account.base_url, prices=self._prices)

    def _resolve(self, name: str) -> str:
        return SIMULATED if self._all_simulated else resolve_auto(name, self.environ)

    def _make(self, settings: ProviderSettings) -> Provider:
        if settings.type == SIMULATED:
            return SimulatedProvider(
                SimulatedConfig(
                    name=settings.name,
                    seed=settings.seed,
                    latency=settings.latency,
                    latency_sigma=settings.latency_sigma,
                    slots=settings.slots,
                    error_rate=settings.error_rate,
                    rate_limit_rate=settings.rate_limit_rate,
                    hang_rate=settings.hang_rate,
                    prompt_cache=settings.prompt_cache,
                    prefill=settings.prefill,
                    enforce=settings.enforce,
                ),
                clock=self._clock,
            )
        return OpenAIProvider(self._openai(settings), pool=self._pool, redactor=self.redactor, clock=self._clock)

    def _openai(self, settings: ProviderSettings) -> OpenAIConfig:
        built_in = settings.base_url is None
        base_url = settings.base_url or self.environ.get("OPENAI_BASE_URL") or OPENAI_BASE_URL
        variable = settings.api_key_env or ("OPENAI_API_KEY" if built_in else "")
        key = self.environ.get(variable, "") if variable else ""
        if not key and (settings.api_key_env or (built_in and OPENAI_HOST in base_url)):
            raise UsageError(
                f"provider {settings.name!r} needs a key, and {variable} is not set",
                hint=f"export {variable}=…, or run with `--provider simulated` to try the workflow without a model",
            )
        secrets: list[str] = []
        return OpenAIConfig(
            name=settings.name,
            base_url=base_url,
            api_key=key,
            api_key_env=variable,
            api=settings.api,
            headers={name: self._expand(name, text, secrets) for name, text in settings.headers.items()},
            secrets=secrets,
            structured=settings.structured,
            max_tokens_field=settings.max_tokens_field,
            prices=self._prices,
        )

    def _expand(self, header: str, text: str, secrets: list[str]) -> str:
        """The value of a header; secret ones of the variables in it are added to `secrets`."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in self.environ:
                raise UsageError(f"header {header} needs {match[1]}, which is not set", hint=f"export {match[1]}=…")
            value = self.environ[match[1]]
            if SECRET_NAME.search(match[1]) or looks_secret(value):
                secrets.append(value)
            return value

        return VARIABLE.sub(value, text)


def _asking(steps: Iterable[Step]) -> Iterator[tuple[Step, LlmBody | EmbedBody]]:
    """The steps that ask providers, each with what it asks; of functions that do, what they ask by default."""
    for step in steps:
        body = step.body
        if isinstance(body, PythonBody) and body.asks is not None:
            body = body.asks.step.body
        if isinstance(body, LlmBody | EmbedBody):
            yield step, body


def _names(body: LlmBody | EmbedBody) -> Iterator[str]:
    """The providers of a step that can be known before the run."""
    for template in (body.provider, *(target.provider for target in body.fallback if target.provider)):
        try:
            name = str(template.render({}))
            yield body.aliases.get(name, name)
        except StepError:
            continue


def _models(body: LlmBody | EmbedBody) -> Iterator[tuple[str, str]]:
    """The providers and models of a step that can be known before the run."""
    targets = [(body.provider, body.model)]
    targets += [(target.provider or body.provider, target.model) for target in body.fallback]
    for provider, model in targets:
        try:
            name = str(provider.render({}))
            yield body.aliases.get(name, name), str(model.render({}))
        except StepError:
            continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Of all providers that a run may use, also of those that it has not used yet."""

    values: frozenset[str]
    """To be masked."""
    variables: frozenset[str]
    """Of the environment; what a step starts does not see them unless the workflow asks for them."""


def find_credentials(
    providers: Iterable[ProviderSettings], environ: Mapping[str, str], database: str = ""
) -> Credentials:
    """The credentials that these providers take from the environment, or have in their base URLs; and passwords of proxies and
    of the database, wherever that is named: others see the words of a command."""
    names, urls = {"OPENAI_API_KEY"}, [environ.get("OPENAI_BASE_URL", "")]
    urls += [text for name, text in environ.items() if name.lower().endswith("_proxy")]
    for settings in providers:
        names |= {settings.api_key_env or "OPENAI_API_KEY", *_of_headers(settings.headers, environ)}
        urls.append(settings.base_url or "")
    databases = (database, environ.get(DATABASE, ""))
    names |= {DATABASE} if any(passwords_of(databases[1])) else set()
    values = {environ.get(name, "").strip() for name in names}
    for url in databases:
        values |= {one for one in passwords_of(url) if len(one) >= _CERTAIN and f"//{one}:{one}@" not in url}
    for url in urls:
        values |= set(passwords_of(url))
    values = {value for value in values if not is_placeholder(value)}
    certain = [value for value in values if len(value) >= _CERTAIN]
    names |= {name for name, text in environ.items() if any(value in text for value in certain)}
    return Credentials(values=frozenset(values), variables=frozenset(names))


def _of_headers(headers: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    for header, text in headers.items():
        for name in VARIABLE.findall(text):
            value = environ.get(name, "")
            if SECRET_NAME.search(header) or SECRET_NAME.search(name) or looks_secret(value):
                yield name


def read_secrets(workflow: Workflow, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The values of the workflow's secrets. Raises UsageError that names every one that is not set."""
    missing = [name for name in workflow.secrets if name not in environ]
    if missing:
        raise UsageError(f"secrets that are not set: {', '.join(missing)}", hint=f"export {missing[0]}=…")
    return {name: environ[name] for name in workflow.secrets}


def allow_local(limiter: Limiter, kinds: Mapping[StepKind, StepRunner], *, holder: object) -> None:
    """Let so many attempts of each local account go at the same time as its kind allows."""
    for kind in kinds.values():
        for account, most in getattr(kind, "slots", {}).items():
            limiter.configure(account, Limits(max_concurrent=most, adaptive=False), holder=holder)


def cluster_of(workflow: Workflow, providers: Providers, address: str | None) -> RayCluster | None:
    """The cluster of that address, to be started; it sees none of the providers' keys, and gets the workflow's files."""
    if address is None:
        return None
    private = providers.private
    environ = {name: text for name, text in providers.environ.items() if name not in private}
    files = {there: workflow.files[here] for here, there in travelling(workflow.files).items()}
    return RayCluster(cluster_address(address), environ=environ, files=files)


def step_kinds(
    workflow: Workflow,
    providers: Providers,
    calls: InFlightCalls,
    secrets: Mapping[str, str],
    wanted: Collection[StepKind],
    *,
    cluster: Cluster | None = None,
) -> dict[StepKind, StepRunner]:
    """What runs the steps of the kinds that are wanted, in this process."""
    return step_runners(
        RunnerServices(
            calls=calls,
            provider=providers.for_step,
            files=workflow.files,
            secrets=secrets,
            redactor=providers.redactor,
            cluster=cluster,
            private=providers.private,
        ),
        wanted,
    )
