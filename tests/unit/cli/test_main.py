from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowllm.cli import main as main_module
from flowllm.cli.main import COMMANDS, cli

HEAVY = (
    "pydantic",
    "jinja2",
    "yaml",
    "rich",
    "openai",
    "networkx",
    "sqlalchemy",
    "alembic",
    "jsonschema",
    "asyncio",
    "starlette",
)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    out = python(
        "import sys\n"
        "from flowllm.cli.main import cli\n"
        "try: cli.main(['--help'], prog_name='flowllm')\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert out.splitlines()[-1] == "[]"
    assert "Usage: flowllm" in out


def test_a_run_that_the_cache_answers_imports_no_client_and_a_new_database_no_toolkit(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("steps: {a: {prompt: 'Hi {{ 1 }}', provider: simulated}, b: {value: '{{ a }}'}}")
    unused = (
        "openai",
        "httpx2",
        "aiohttp",
        "genai_prices",
        "pydantic",
        "sqlalchemy",
        "alembic",
        "networkx",
        "rich",
        "uvicorn",
    )
    unused += ("jsonschema", "jsonschema_rs", "flowllm.steps.http.runner", "flowllm.steps.python.runner")
    out = python(
        "import os, sys\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "from flowllm.cli.main import cli\n"
        "for _ in range(2):\n"
        "    try: cli.main(['run', 'w.yaml', '--quiet'], prog_name='flowllm')\n"
        "    except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {unused!r} if name in sys.modules])"
    )
    assert out.splitlines()[-1] == "[]"


def test_help_lists_every_command_that_is_there_and_no_other() -> None:
    out = CliRunner().invoke(cli, ["--help"]).output
    for name in COMMANDS:
        assert f"  {name} " in out
    assert "  ui " in out.split("Commands:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    usage, text = result.output.split("\n\n")[:2]
    assert usage.startswith(f"Usage: cli {name} ")
    assert text.startswith("  ")
    assert "Options:" not in text


def test_examples_in_help_stand_on_lines_of_their_own() -> None:
    assert '\n    flowllm run blog.yaml -i topic="Green tea"\n' in CliRunner().invoke(cli, ["run", "--help"]).output
    assert "\n  3 paused; 130, 143 and 129 interrupted.\n" in CliRunner().invoke(cli, ["-h"]).output


def test_a_process_that_only_prints_the_schema_knows_every_kind_of_step() -> None:
    done = subprocess.run([sys.executable, "-m", "flowllm", "schema"], capture_output=True, text=True, check=True)
    kinds = json.loads(done.stdout)["properties"]["steps"]["additionalProperties"]["anyOf"]
    assert {"prompt-step", "workflow-step", "value-step"} <= {kind["$ref"].rpartition("/")[2] for kind in kinds}


def test_python_m_flowllm_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "flowllm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("flowllm 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["rnu"], "Did you mean"),
        (["run"], "Missing argument 'FILE'"),
        (["run", "x.yaml", "--nonsense"], "No such option"),
        (["run", "x.yaml", "--grace", "60"], "has no unit"),
        (["run", "x.yaml", "--max-concurrent", "0"], "expected a whole number from 1, or auto"),
        (["run", "x.yaml", "-i", "topic"], "-i topic: this is not NAME=VALUE"),
        (["run", "x.yaml", "-i", "a=1", "-i", "a=2"], "-i names `a` twice"),
        (["run", "x.yaml", "--set", "judge.model"], "--set judge.model: this is not STEP.KEY=VALUE"),
        (["run", "x.yaml", "--over", "rows.csv"], "--over needs --output"),
        (["run", "x.yaml", "--output", "o"], "--output belongs to --over"),
        (["run", "x.yaml", "--limit", "0"], "x>=1"),
        (["run", "x.yaml", "--over", "o", "--output", "o"], "are the same file"),
        (["run", "x.yaml", "--ordered"], "--ordered belongs to --over"),
        (["failed", "RUN"], "There is no run RUN."),
        (["ui", "--host", "0.0.0.0"], "--host takes an address that only this machine reaches"),
        (["cache", "clear"], "add --yes if that is meant"),
    ],
)
def test_bad_usage_is_reported_on_standard_error_and_exits_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_no_arguments_show_the_help() -> None:
    result = CliRunner().invoke(cli, [])
    assert "Usage:" in result.output
    assert result.exit_code in {0, 2}


def test_main_makes_any_text_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from flowllm.cli.main import main; import sys; sys.argv = ['flowllm', 'x\\ud800é']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert main_module.main.__doc__
