from __future__ import annotations

import pytest

from flowllm.app.wiring import Providers, read_secrets, resolve_auto
from flowllm.core.errors import Unauthorized, UsageError
from flowllm.core.types import Limits
from flowllm.limits.limiter import Limiter
from flowllm.providers.openai.provider import ClientPool
from tests.support.virtual import LoopClock
from tests.support.workflows import workflow

KEY = {"OPENAI_API_KEY": "sk-canary"}


def providers(text: str, *, environ: dict[str, str] | None = None, simulated: bool = False) -> Providers:
    return Providers(
        workflow(text), environ=environ or {}, pool=ClientPool(), clock=LoopClock(), prices={}, all_simulated=simulated
    )


class Claims(Limiter):
    """Keeps what it is told, and applies nothing."""

    def __init__(self) -> None:
        super().__init__(LoopClock())
        self.told: dict[str, Limits] = {}

    def configure(self, account: object, limits: Limits, *, holder: object) -> None:
        self.told[account.base_url] = limits


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, "simulated"),
        ({"OPENAI_API_KEY": ""}, "simulated"),
        (KEY, "openai"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "openai"),
    ],
)
def test_auto_means_a_model_where_one_can_be_asked(environ: dict[str, str], found: str) -> None:
    assert resolve_auto("auto", environ) == found
    assert resolve_auto("work", environ) == "work"


def test_a_missing_key_is_told_with_what_to_do_before_the_run_and_fails_a_node_in_it() -> None:
    text = "steps: {a: {prompt: x, model: m}}\n"
    found = providers(text)
    with pytest.raises(UsageError, match="provider 'openai' needs a key") as caught:
        found.check(workflow(text).steps.values())
    assert "export OPENAI_API_KEY=" in caught.value.hint
    with pytest.raises(Unauthorized, match="needs a key"):
        found.for_step("openai")
    providers(text, environ=KEY).check(workflow(text).steps.values())


def test_the_key_of_openai_goes_to_no_other_host() -> None:
    text = "providers: {local: {type: openai, base_url: 'http://127.0.0.1:1/v1'}}\nsteps: {a: {value: 1}}\n"
    found = providers(text, environ=KEY)
    assert found.get("local").account.key_hash != found.get("openai").account.key_hash


def test_an_unknown_provider_is_told_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no provider 'nobody'") as caught:
        providers("steps: {a: {value: 1}}\n").get("nobody")
    assert "simulated" in caught.value.hint


def test_simulated_replaces_all() -> None:
    found = providers("steps: {a: {prompt: x, model: m}}\n", simulated=True)
    assert found.default == "simulated"
    assert found.get("openai") is found.get("simulated")


TWO = """
    providers:
      one: {type: openai, base_url: "http://127.0.0.1:1/v1", limits: {max_concurrent: 7}}
      two: {type: openai, base_url: "http://127.0.0.1:2/v1"}
    defaults: {provider: one, model: m}
    limits: {max_concurrent: 5, requests_per_minute: 60}
    steps:
      a: {prompt: x}
      b: {prompt: x, provider: two}
    """


def test_auto_stands_in_place_of_the_default_providers_number_alone() -> None:
    found, limiter = providers(TWO.replace(':2/v1"', ':2/v1", limits: {max_concurrent: 3}')), Claims()
    found.check(workflow(TWO).steps.values())
    found.claim(limiter, holder="run", cap="auto", ceiling=100)
    one, two = (limiter.told[f"http://127.0.0.1:{port}/v1"] for port in (1, 2))
    assert (one.max_concurrent, one.ceiling, one.requests_per_minute) == (None, 100, 60)
    assert two.max_concurrent == 3


@pytest.mark.parametrize(("cap", "one", "two"), [(None, 5, None), (2, 2, None), (99, 99, None)])
def test_limits_of_the_workflow_are_those_of_its_default_provider(cap: int | None, one: int, two: int | None) -> None:
    found, limiter = providers(TWO), Claims()
    found.check(workflow(TWO).steps.values())
    found.claim(limiter, holder="run", cap=cap)
    assert limiter.told["http://127.0.0.1:1/v1"].max_concurrent == one
    assert limiter.told["http://127.0.0.1:1/v1"].requests_per_minute == 60
    assert limiter.told["http://127.0.0.1:2/v1"].max_concurrent == two
    assert limiter.told["http://127.0.0.1:2/v1"].ceiling == cap


def test_limits_of_a_provider_that_is_needed_later_are_told_then() -> None:
    found, limiter = providers(TWO), Claims()
    found.claim(limiter, holder="run", cap=None)
    assert limiter.told == {}
    found.for_step("one")
    assert list(limiter.told) == ["http://127.0.0.1:1/v1"]


def test_a_header_takes_its_value_from_the_environment_or_says_what_is_missing() -> None:
    text = "providers: {w: {type: openai, base_url: 'http://127.0.0.1:1/v1', headers: {X-Team: '${TEAM}'}}}\nsteps: {a: {value: 1}}\n"
    with pytest.raises(UsageError, match="header X-Team needs TEAM") as caught:
        providers(text).get("w")
    assert caught.value.hint == "export TEAM=…"
    assert providers(text, environ={"TEAM": "blue"}).get("w").name == "w"


def test_every_secret_that_is_not_set_is_named() -> None:
    checked = workflow("secrets: [A, B, C]\nsteps: {a: {value: 1}}\n")
    with pytest.raises(UsageError, match="secrets that are not set: A, C"):
        read_secrets(checked, {"B": "b"})
    assert read_secrets(checked, {"A": "", "B": "b", "C": "c", "D": "d"}) == {"A": "", "B": "b", "C": "c"}
