from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from flowllm.cli.options import Globals
from flowllm.cli.output import guarded, print_json, print_outputs, print_table
from flowllm.core.errors import InvalidWorkflow, Problem, Refused, RunOwned, StorageFailed


def test_outputs_are_headed_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_outputs({"headline": "Tea\x1b[2J\n", "keywords": ["a", "b"], "none": None})
    assert capsys.readouterr().out == (
        'headline\n--------\nTea\\x1b[2J\n\nkeywords\n--------\n[\n  "a",\n  "b"\n]\n\nnone\n----\nnull\n'
    )


def test_json_is_one_valid_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "\x9b\u202e é \ud800"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": "\x9b\u202e é \ud800"}
    assert not set(out) & {"\x9b", "\u202e", "\ud800"}


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"RUN": "a", "COST": "$10", "NOTE": "x", "NONE": ""},
        {"RUN": "long\x1b", "COST": "", "NOTE": "", "NONE": ""},
    ]
    print_table(rows, right=("COST",))
    assert capsys.readouterr().out.splitlines() == ["RUN       COST  NOTE", "a          $10  x", "long\\x1b     -"]


CANARY = "sk-canary-1234567890"


def printed(error: BaseException, capsys: pytest.CaptureFixture[str], *, debug: bool = False) -> tuple[int, list[str]]:
    def command() -> None:
        raise error

    code = guarded(command, Globals(debug=debug))
    out, err = capsys.readouterr()
    assert out == ""
    return code, err.splitlines()


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (3, 3), ("text", 0)])
def test_a_command_gives_its_exit_code(outcome: object, code: int) -> None:
    assert guarded(lambda: outcome, Globals()) == code


def test_an_error_says_what_happened_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = RunOwned("run x is owned by process 7", hint="wait for it,\nor stop it")
    assert printed(error, capsys) == (2, ["error: run x is owned by process 7", "  wait for it,", "  or stop it"])
    assert printed(StorageFailed("disk full"), capsys) == (1, ["error: disk full"])


def test_an_answer_is_shown_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = printed(Refused("no", answer="I\x1b[2J will\nnot"), capsys)
    assert code == 1
    assert lines[-1] == r"  the last answer was: I\x1b[2J will not"


def test_every_problem_of_a_workflow_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem(file="b.yaml", line=9, column=3, message="second", source_line="  abc"),
        Problem(file="b.yaml", line=2, column=1, message="first", hint="did you mean `x`?"),
    ]
    assert printed(InvalidWorkflow(problems), capsys) == (
        2,
        ["b.yaml:2:1: first (did you mean `x`?)", "b.yaml:9:3: second", "      abc", "      ^", "2 problems"],
    )


def test_a_bug_is_one_line_and_its_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", CANARY)
    error = ZeroDivisionError(f"with {CANARY}\nin it")
    code, lines = printed(error, capsys)
    assert code == 1
    assert lines == [
        "error: this is a bug of flowllm, please report it: ZeroDivisionError: with *** in it",
        "  --debug shows the traceback",
    ]
    code, lines = printed(error, capsys, debug=True)
    assert any("Traceback" in line for line in lines)
    assert CANARY not in "\n".join(lines)


def test_a_secret_in_an_error_is_masked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK_TOKEN", CANARY)
    _, lines = printed(StorageFailed(f"at {CANARY}", hint=f"not {CANARY}"), capsys, debug=True)
    assert CANARY not in "\n".join(lines)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130_without_a_traceback(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(error, capsys) == (130, ["stopped"])


def test_a_reader_that_left_is_no_reason_to_complain() -> None:
    code = (
        "import sys\n"
        "from flowllm.cli.output import guarded\n"
        "from flowllm.cli.options import Globals\n"
        "def command():\n"
        "    for _ in range(100_000): print('x' * 80)\n"
        "sys.exit(guarded(command, Globals()))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
