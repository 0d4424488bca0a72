from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import pytest

from flowllm import FlowLLM, load_workflow
from flowllm.app.prepare import new_run_id
from flowllm.app.result import RunResult
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RunOwned, UsageError
from flowllm.core.events import RunEnded
from flowllm.core.types import RunStatus
from flowllm.runtime.options import RunOptions

pytestmark = pytest.mark.anyio
SIMULATED = "defaults: {provider: simulated, model: m}\n"
CHAIN = (
    SIMULATED
    + """steps:
  a: {prompt: first}
  b: {prompt: "then {{ a }}"}
outputs: {b: "{{ b }}"}
"""
)


class Folder:
    """A user's folder, and applications in it that read no environment but the given one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, name: str = "flow.yaml") -> str:
        (self.path / name).write_text(textwrap.dedent(text))
        return str(self.path / name)

    def app(self, **environ: str) -> FlowLLM:
        return FlowLLM(database=self.path / "test.db", environ=environ)

    def kept(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.path.glob("test.db*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def statuses(result: RunResult) -> dict[str, str]:
    return {name: step.status for name, step in result.steps.items()}


async def test_a_run_that_only_went_until_a_step_goes_on_with_the_others(folder: Folder) -> None:
    """`until` is not kept with a run: it has succeeded, and is not complete."""
    async with folder.app() as app:
        first = await app.run(folder.write(CHAIN), options=RunOptions(until="a"))
        assert (first.status, statuses(first)) == (RunStatus.SUCCEEDED, {"a": "succeeded"})
        again = await app.resume(first.run_id, until="a")
        assert statuses(again) == {"a": "succeeded"}
        whole = await app.resume(first.run_id)
        assert statuses(whole) == {"a": "succeeded", "b": "succeeded"}
        assert whole.outputs["b"]
        assert whole.stats["requests"]["sent"] == 1


async def test_a_complete_run_is_given_back_as_it_is(folder: Folder) -> None:
    async with folder.app() as app:
        first = await app.run(folder.write(CHAIN))
        assert await app.resume(first.run_id) == first


SECRET = """
    secrets: [TOKEN]
    steps:
      a: {python: "./tools.py:work", with: {token: "{{ secrets.TOKEN }}"}}
    outputs: {a: "{{ a }}"}
    """
LEAK = """
    import os
    def work(token):
        if not os.path.exists("ready"): raise ValueError("not with " + token)
        return "the secret is " + token
    """


OF_ALL_KINDS = (
    SIMULATED
    + """secrets: [TOKEN]
steps:
  twice: {prompt: "an answer, é", output: {type: object, properties: {n: {type: integer}}, required: [n]}}
  same: {prompt: "an answer, é", output: {type: object, properties: {n: {type: integer}}, required: [n]}}
  texts: {embed: [a, b]}
  said: {shell: "printf '%s' $T", env: {T: "{{ secrets.TOKEN }}"}}
  whole: {value: {n: "{{ twice.n }}", a: [1.0, -0.0, null, 123456789012345678901, "{{ said }}"]}}
  left: {value: 1, when: "{{ false }}"}
  after: {value: "{{ left }}"}
  broken: {value: "{{ whole.a / 0 }}", on_error: continue}
  inner: {workflow: {steps: {x: {value: "{{ 1 }}"}}, outputs: {y: "{{ x }}"}}}
  last: {value: "{{ broken }}"}
"""
)


FAILS = """  then: {value: "{{ missing[0] }}", needs: [missing]}
  missing: {value: "{{ 1 / 0 }}"}
"""
ITEMS = """  each: {foreach: [1, 2], value: "{{ item }}"}
"""


@pytest.mark.parametrize("more", ["", FAILS, ITEMS])
async def test_what_a_run_gives_is_what_is_on_record(folder: Folder, more: str) -> None:
    """The nodes at hand are shown as they would be read."""
    flow = folder.write(OF_ALL_KINDS + more)
    async with folder.app(TOKEN="s3cr3t-w0rd") as app:
        result = await app.run(flow)
        again = await app.result(result.run_id)
    assert result.status == (RunStatus.FAILED if more == FAILS else RunStatus.SUCCEEDED)
    assert repr(result) == repr(again)
    assert "s3cr3t" not in repr(result)
    assert {"succeeded", "skipped", "failed"} <= set(statuses(result).values())


async def test_a_resumed_run_masks_secrets_as_the_first_run_attempt_does(folder: Folder) -> None:
    """Only the first attempt knew them: what a resumed step returned was stored as it was."""
    folder.write(LEAK, "tools.py")
    async with folder.app(TOKEN="canary-1234") as app:
        first = await app.run(folder.write(SECRET))
        assert first.steps["a"].error["message"].startswith("work raised ValueError: not with ***")
    folder.write("", "ready")
    async with folder.app(TOKEN="canary-1234") as app:
        resumed = await app.resume(first.run_id)
    assert resumed.outputs == {"a": "the secret is ***"}
    assert b"canary" not in folder.kept()


async def test_a_secret_that_is_not_set_is_told_before_anything_starts(folder: Folder) -> None:
    folder.write(LEAK, "tools.py")
    async with folder.app() as app:
        with pytest.raises(UsageError, match="secrets that are not set: TOKEN"):
            await app.run(folder.write(SECRET))
        assert await app.store.runs() == []


HOUR = (
    "providers: {slow: {type: simulated, latency: 1h}}\ndefaults: {provider: slow, model: m}\nsteps: {a: {prompt: x}}\n"
)


def _slow(folder: Folder, steps: int, limits: str = "") -> str:
    return folder.write(
        "providers: {slow: {type: simulated, latency: 50ms}}\n"
        "defaults: {provider: slow, model: m}\n"
        f"{limits}\nsteps:\n" + "".join(f"  s{n}: {{prompt: p{n}}}\n" for n in range(steps)),
        f"slow{steps}.yaml",
    )


class Peak:
    """The most requests in flight."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def handle(self, event: object) -> None:
        self.now += {"RequestSent": 1, "RequestEnded": -1}.get(type(event).__name__, 0)
        self.most = max(self.most, self.now)


async def test_the_limits_of_a_run_end_with_it(folder: Folder) -> None:
    """They stayed for ever: every later run in the same process was as slow as the slowest before it."""
    async with folder.app() as app:
        narrow, wide = Peak(), Peak()
        await app.run(_slow(folder, 3, "limits: {max_concurrent: 1}"), observers=[narrow])
        await app.run(_slow(folder, 6, "limits: {max_concurrent: 6}"), observers=[wide])
        assert narrow.most == 1
        assert wide.most > 1
        assert not any(app._limiter._claims.values())


async def test_limits_hold_for_a_provider_that_a_template_names(folder: Folder) -> None:
    text = (
        "inputs: {who: slow}\nproviders: {slow: {type: simulated, latency: 5ms}}\ndefaults: {model: m}\nsteps:\n"
        + "".join(f'  s{n}: {{prompt: p{n}, provider: "{{{{ inputs.who }}}}"}}\n' for n in range(4))
    )
    async with folder.app() as app:
        peak = Peak()
        result = await app.run(folder.write(text), options=RunOptions(max_concurrent=1), observers=[peak])
        assert (result.status, peak.most) == (RunStatus.SUCCEEDED, 1)


class Told:
    def __init__(self) -> None:
        self.events: list = []
        self.sent = asyncio.Event()

    def handle(self, event: object) -> None:
        self.events.append(event)
        if type(event).__name__ == "RequestSent":
            self.sent.set()


async def test_whoever_cancels_a_run_stops_it_and_finds_it_interrupted(folder: Folder) -> None:
    """Its calls went on without it, and its record said `running` until the end of the process."""
    told = Told()
    async with folder.app() as app:
        going = asyncio.create_task(app.run(folder.write(HOUR), observers=[told]))
        await told.sent.wait()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        (run,) = await app.store.runs()
        assert run.status is RunStatus.INTERRUPTED
        assert run.owner is None
        assert isinstance(told.events[-1], RunEnded)
        assert not any(app._limiter._claims.values())
        await app._calls.drain()


async def test_two_attempts_at_one_run_exclude_each_other_and_leave_no_limits_behind(folder: Folder) -> None:
    told, stop = Told(), StopSignal()
    async with folder.app() as app:
        going = asyncio.create_task(app.run(folder.write(HOUR), observers=[told], stop=stop))
        await told.sent.wait()
        (run,) = await app.store.runs()
        with pytest.raises(RunOwned):
            await app.resume(run.run_id)
        stop.cancel()
        assert (await going).status is RunStatus.INTERRUPTED
        assert not any(app._limiter._claims.values())


async def test_options_reach_a_workflow_that_was_loaded_before(folder: Folder) -> None:
    """They were ignored without a word."""
    loaded = load_workflow(folder.write(CHAIN))
    async with folder.app() as app:
        plain = await app.run(loaded)
        other = await app.run(loaded, options=RunOptions(model="other", settings={"a.model": "third"}))
        assert (plain.steps["a"].model, other.steps["a"].model, other.steps["b"].model) == ("m", "third", "other")


async def test_runs_in_one_process_share_their_calls(folder: Folder) -> None:
    async with folder.app() as app:
        results = await asyncio.gather(*(app.run(_slow(folder, 2)) for _ in range(3)))
        assert {result.status for result in results} == {RunStatus.SUCCEEDED}
        assert sum(result.stats["requests"]["sent"] for result in results) == 2


async def test_a_plan_of_some_steps_tells_of_those_only(folder: Folder) -> None:
    async with folder.app() as app:
        found = await app.forecast(folder.write(CHAIN), options=RunOptions(until="a"))
        assert [node.step for node in found.nodes] == ["a"]
        assert found.critical_path == ("a",)
        assert await app.store.runs() == []


@pytest.mark.parametrize("options", [RunOptions(until="x"), RunOptions(refresh=("x",))])
async def test_a_step_that_is_not_there_is_told(folder: Folder, options: RunOptions) -> None:
    async with folder.app() as app:
        with pytest.raises(UsageError, match="there is no step 'x'"):
            await app.run(folder.write(CHAIN), options=options)


async def test_outside_of_its_context_it_says_how_to_use_it(folder: Folder) -> None:
    with pytest.raises(UsageError, match="not open"):
        await folder.app().run(folder.write(CHAIN))


async def test_a_provider_that_no_chosen_step_needs_may_lack_its_key(folder: Folder) -> None:
    text = CHAIN.replace('b: {prompt: "then {{ a }}"}', 'b: {prompt: "then {{ a }}", provider: openai}')
    async with folder.app() as app:
        assert (await app.run(folder.write(text), options=RunOptions(until="a"))).status is RunStatus.SUCCEEDED
        with pytest.raises(UsageError, match="needs a key"):
            await app.run(folder.write(text))


def test_ids_of_runs_sort_by_age_and_differ() -> None:
    ids = {new_run_id(1_800_000_000.0) for _ in range(50)}
    assert len(ids) == 50
    assert max(ids) < new_run_id(1_800_000_001.0)
    assert all(one.startswith("20270115-080000-") for one in ids)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workflow": [{"steps": {}}]}, "or a Workflow, not list"),
        ({"inputs": [("topic", "tea")]}, "inputs are a mapping of names to values, not list"),
        ({"options": {"model": "m"}}, "options are RunOptions, not dict"),
    ],
)
async def test_arguments_that_are_none_are_told(tmp_path: Path, arguments: dict, said: str) -> None:
    arguments = {"workflow": Folder(tmp_path).write(CHAIN), **arguments}
    async with FlowLLM(database="memory:", environ={}) as app:
        for call in (app.run, app.forecast):
            with pytest.raises(UsageError, match=said):
                await call(**arguments)
