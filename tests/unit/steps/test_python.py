from __future__ import annotations

import asyncio
import textwrap
import threading

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import PythonFailed
from flowllm.core.events import NodeRetrying
from flowllm.core.types import NodeStatus, RunStatus
from flowllm.language.workflow import PythonBody
from flowllm.steps.python.runner import MOST_THREADS, source_hash
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual


def step(options: str = "") -> str:
    return f"steps:\n  a:\n    python: ./tools.py:work\n{textwrap.indent(textwrap.dedent(options), '    ')}"


def outcome(code: str, options: str = "") -> dict:
    """The node's error, or {"output": …}, and when it ended; for coroutines, in virtual time."""

    async def main() -> dict:
        stage = Stage()
        await stage.run(step(options), files={"tools.py": textwrap.dedent(code)})
        node = (await stage.nodes())["a"]
        at = asyncio.get_running_loop().time()
        return {**(node.error or {"output": node.output}), "at": at, "attempts": node.attempts}

    return run_virtual(main())


def outcome_of_thread(code: str) -> dict:
    async def main() -> dict:
        stage = Stage()
        await stage.run(step(), files={"tools.py": textwrap.dedent(code)})
        node = (await stage.nodes())["a"]
        return node.error or {"output": node.output}

    return asyncio.run(main())


def test_a_coroutine_runs_on_the_loop_and_a_plain_function_in_a_thread() -> None:
    where = "import threading\n{}def work(): return threading.current_thread() is threading.main_thread()\n"
    on_loop = threading.current_thread() is threading.main_thread()
    assert outcome(where.format("async "))["output"] is on_loop
    assert outcome_of_thread(where.format("")) == {"output": False}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('bad')", "work raised ValueError: bad (tools.py:3, in work: raise ValueError('bad'))"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise asyncio.CancelledError", "work raised CancelledError"),
        ("return {1: 2}", "a mapping with the key 1"),
        ("return [float('nan')]", r"nan at [0]"),
        ("a = []; a.append(a); return a", "contains itself"),
        ("return object()", "an object, which JSON cannot hold"),
    ],
)
def test_whatever_it_raises_or_gives_is_its_steps_failure(body: str, said: str) -> None:
    failed = outcome(f"import asyncio\nasync def work():\n    {body}\n")
    assert failed["type"] == "PythonFailed"
    assert said in failed["message"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("del work", "has no function work"),
        ("work = 3", "has no function work"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_its_steps_failure(code: str, said: str) -> None:
    failed = outcome(f"async def work(): pass\n{code}\n")
    assert failed["type"] == "PythonFailed"
    assert said in failed["message"]


@pytest.mark.parametrize(("code", "said"), [("def work(:", "invalid syntax"), ("\0", "null bytes")])
def test_what_is_no_python_is_its_steps_failure(code: str, said: str) -> None:
    with pytest.raises(PythonFailed, match=said):
        source_hash(PythonBody(file="/f.py", function="work"), {"/f.py": code})


def test_a_package_that_breaks_while_a_module_is_looked_for_is_its_steps_failure(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken_package_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PythonFailed, match="cannot be imported: RuntimeError: broken"):
        source_hash(PythonBody(module=f"{package.name}.inner", function="work"), {})


def test_comments_and_blank_lines_are_not_in_the_key_and_the_code_is() -> None:
    def of(text: str) -> str:
        return source_hash(PythonBody(file="/f.py", function="work"), {"/f.py": text})

    assert of("def work():\n    return 1\n") == of("# new\ndef work():\n\n    return 1  # one\n")
    assert of("def work():\n    return 1\n") != of("def work():\n    return 2\n")


def test_it_is_called_once_unless_the_step_says_otherwise() -> None:
    assert outcome("async def work(): raise ValueError")["attempts"] == 0
    code = """
        calls = []
        async def work():
            calls.append(1)
            if len(calls) < 3: raise ValueError("not yet")
            return len(calls)
        """
    retry = "retry: {max_attempts: 3, initial_delay: 2s, multiplier: 2, jitter: none}"
    assert outcome(code, retry) == {"output": 3, "at": 6, "attempts": 3}


def test_a_retry_that_cannot_come_in_time_is_not_waited_for() -> None:
    """It was waited for, and then timed out after a negative time."""
    failed = outcome(
        "async def work(): raise ValueError('no')",
        """
        retry: {max_attempts: 9, initial_delay: 8s, multiplier: 1, jitter: none}
        timeout: 20s
        """,
    )
    assert failed["type"] == "NodeTimedOut"
    assert failed["message"].startswith(
        "the next attempt, in 8 s, would pass the step's timeout of 20 s; the last one: work raised"
    )
    assert failed["at"] == 16


@pytest.mark.parametrize(
    ("options", "at", "hint"),
    [
        ("timeout: 20s", 20, "`timeout`"),
        ("retry: {max_attempts: 1, attempt_timeout: 5s}\ntimeout: 20s", 5, "`retry.attempt_timeout`"),
        ("timeout: 1h", 300, "`retry.attempt_timeout`"),
    ],
)
def test_a_timeout_names_the_option_that_would_help(options: str, at: float, hint: str) -> None:
    failed = outcome("import asyncio\nasync def work(): await asyncio.sleep(9999)", options)
    assert (failed["type"], failed["at"]) == ("NodeTimedOut", at)
    assert hint in failed["hint"]


def test_a_failed_attempt_is_told_before_the_next() -> None:
    async def main() -> list:
        stage = Stage()
        ready = await stage.prepare(
            step("retry: {max_attempts: 2, initial_delay: 1s, jitter: none}"),
            files={"tools.py": "async def work(): raise ValueError('no')"},
        )
        await ready.attempt()
        return [(event.attempt, event.delay_s) for event in ready.events if isinstance(event, NodeRetrying)]

    assert run_virtual(main()) == [(1, 1)]


def test_steps_that_wait_for_a_thread_do_not_start_once_the_run_stops_and_do_not_time_out() -> None:
    release = threading.Event()
    code = "import tests.unit.steps.test_python as t\ndef work(): t.started.append(1); t.release.wait(30)"
    globals().update(release=release, started=[])
    names = [f"s{number}" for number in range(MOST_THREADS + 3)]
    text = "steps:\n" + "".join(f"  {name}: {{python: ./tools.py:work}}\n" for name in names)

    async def main() -> object:
        stage, stop = Stage(), StopSignal()
        ready = await stage.prepare(text, files={"tools.py": code}, stop=stop)
        going = asyncio.create_task(ready.attempt())
        while len(globals()["started"]) < MOST_THREADS:
            await asyncio.sleep(0)
        stop.request("Ctrl-C")
        release.set()
        ending = await going
        nodes = await stage.nodes()
        assert len(nodes) == len(globals()["started"]) == MOST_THREADS
        assert {node.status for node in nodes.values()} == {NodeStatus.SUCCEEDED}
        return ending.status

    assert asyncio.run(main()) is RunStatus.INTERRUPTED


def test_a_secret_in_what_it_returns_or_raises_is_masked() -> None:
    async def main(code: str) -> str:
        stage = Stage(secrets=("canary-1",))
        await stage.run(step(), files={"tools.py": code})
        return repr(await stage.nodes())

    for code in ("return {'canary-1': ['canary-1']}", "raise ValueError('canary-1')"):
        kept = run_virtual(main(f"async def work(): {code}"))
        assert "canary" not in kept
        assert "***" in kept


def test_with_a_cache_it_is_not_called_again() -> None:
    async def main() -> list:
        stage = Stage()
        files = {"tools.py": "calls = []\nasync def work(): calls.append(1); return len(calls)"}
        for number in range(2):
            await stage.run(step("cache: true"), files=files, run_id=f"r{number}")
        nodes = [(await stage.nodes(f"r{number}"))["a"] for number in range(2)]
        return [(node.output, node.cached, node.attempts) for node in nodes]

    assert run_virtual(main()) == [(1, False, 1), (1, True, 0)]


@pytest.mark.parametrize(
    "raised", ["KeyboardInterrupt('x')", "StopIteration('x')", "GeneratorExit('x')", "SystemExit('x')"]
)
def test_whatever_a_thread_raises_is_its_steps_failure(raised: str) -> None:
    """A KeyboardInterrupt of a function's ended the whole run."""
    failed = outcome_of_thread(f"def work(): raise {raised}")
    assert failed["type"] == "PythonFailed"
    assert raised.partition("(")[0] in failed["message"]


def test_a_plain_function_that_takes_too_long_is_left_to_itself() -> None:
    async def main() -> list[str]:
        stage, release = Stage(), threading.Event()
        globals().update(release=release, ended=[])
        code = "import tests.unit.steps.test_python as t\ndef work(): t.release.wait(30); t.ended.append(1)"
        await stage.run(step("timeout: 50ms"), files={"tools.py": code})
        error = (await stage.nodes())["a"].error
        assert globals()["ended"] == []
        release.set()
        return [error["type"], error["hint"]]

    kind, hint = asyncio.run(main())
    assert kind == "NodeTimedOut"
    assert "goes on in its thread" in hint
