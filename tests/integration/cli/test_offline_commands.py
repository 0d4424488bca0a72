"""Commands that need neither the application nor a provider, as real processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from flowllm.cli.files import starter_files
from tests.support.project import Project

BAD = """\
name: bad
defaults: {model: m}
steps:
  a:
    prompt: Say {{ steps.b.nope }}
    temprature: 1
  b:
    prompt: Hi
"""


SIMULATED = "defaults: {provider: simulated, model: m}\n"


def flowllm(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    done = Project(cwd).run(*arguments, **environ)
    assert "Traceback" not in done.err
    return subprocess.CompletedProcess(arguments, done.code, done.out, done.err)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in starter_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_init_writes_a_project_that_validates_and_names_its_schema(tmp_path: Path) -> None:
    project = tmp_path / "new"
    assert flowllm("init", "new", cwd=tmp_path).returncode == 0
    text = (project / "workflows/blog.yaml").read_text()
    named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((project / "workflows" / named).read_text())
    jsonschema.validate(yaml.safe_load(text), schema)
    assert schema == json.loads(flowllm("schema", cwd=project).stdout)
    done = flowllm("validate", "workflows/blog.yaml", cwd=project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "workflows/blog.yaml: ok\n", "")


def test_init_overwrites_nothing(project: Path) -> None:
    path = project / "flowllm.yaml"
    path.write_text("# mine\n")
    done = flowllm("init", cwd=project)
    assert done.returncode == 0
    assert "kept flowllm.yaml" in done.stderr
    assert done.stdout == ""
    assert path.read_text() == "# mine\n"


def test_init_where_nothing_can_be_written_is_an_error_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = flowllm("init", "file", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write to file")


def test_validate_tells_every_problem_of_every_file(project: Path) -> None:
    (project / "bad.yaml").write_text(BAD)
    done = flowllm("validate", "bad.yaml", "workflows/blog.yaml", "nowhere.yaml", cwd=project)
    assert done.returncode == 2
    assert done.stdout == "workflows/blog.yaml: ok\n"
    assert "bad.yaml:5:" in done.stderr
    assert "bad.yaml:6:5: unknown key `temprature`" in done.stderr
    assert "nowhere.yaml" in done.stderr
    assert done.stderr.endswith("3 problems\n")


def test_validate_as_json(project: Path) -> None:
    (project / "bad.yaml").write_text(BAD)
    done = flowllm("validate", "bad.yaml", "workflows/blog.yaml", "--json", cwd=project)
    assert done.returncode == 2
    bad, good = json.loads(done.stdout)
    assert [(one["line"], one["step"]) for one in bad["problems"]] == [(5, "a"), (6, "a")]
    assert good == {"file": "workflows/blog.yaml", "problems": []}


def test_a_warning_is_shown_and_nothing_is_refused_for_it(project: Path) -> None:
    (project / "w.yaml").write_text(f"{SIMULATED}steps: {{a: {{value: 1}}}}\noutputs: {{y: a}}\n")
    done = flowllm("validate", "w.yaml", cwd=project)
    assert (done.returncode, done.stdout) == (0, "w.yaml: ok\n")
    assert done.stderr.startswith("w.yaml:3:14: warning: this is the text 'a'")
    assert done.stderr.endswith("\n1 warning\n")
    as_json = flowllm("validate", "w.yaml", "--json", cwd=project)
    ((found,),) = (one["problems"] for one in json.loads(as_json.stdout))
    assert (as_json.returncode, found["severity"], found["line"]) == (0, "warning", 3)
    ran = flowllm("run", "w.yaml", "--db", "memory:", "-q", cwd=project)
    assert (ran.returncode, ran.stdout.split()[-1]) == (0, "a")
    assert "w.yaml:3:14: warning: this is the text 'a'" in ran.stderr


CHILD = """
inputs: {x: }
steps:
  one: {prompt: "{{ inputs.x }}"}
  two: {prompt: "{{ one }}", provider: mine}
outputs: {two: "{{ two }}"}
"""
PARENT = """
defaults: {model: m, provider: simulated}
providers: {mine: {type: simulated}}
steps: {p: {workflow: ./CHILD, with: {x: hi}}}
"""


@pytest.mark.parametrize("child", ["child.yaml", "parts/child.yaml"])
def test_what_a_parent_gives_a_child_is_not_missing_in_it(child: str, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / child).write_text(CHILD)
    alone = flowllm("validate", child, cwd=tmp_path)
    assert alone.returncode == 2
    assert "2 steps have no model" in alone.stderr
    assert "there is no provider `mine`" in alone.stderr
    (tmp_path / "parent.yaml").write_text(PARENT.replace("CHILD", child))
    (tmp_path / "broken.yaml").write_text(f"steps: [{child}")
    for files in ([child, "parent.yaml"], [child]):
        done = flowllm("validate", *files, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), files
        assert f"{child}: ok (as a step of parent.yaml)" in done.stdout
    (tmp_path / child).write_text(CHILD.replace("{{ one }}", "{{ on }}"))
    wrong = flowllm("validate", child, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "unknown name `on`" in wrong.stderr


def test_validate_looks_for_data_files_and_run_leaves_that_to_the_step(project: Path) -> None:
    (project / "data").mkdir()
    (project / "w.yaml").write_text(
        SIMULATED
        + """steps:
  a: {foreach: {file: rows.csv}, prompt: "{{ item.x }}"}
  b: {foreach: {matrix: {r: {file: data, format: jsonl}, s: [1]}}, prompt: "{{ item }}"}
  c: {prompt: Hi, images: [./no.png, "https://example.com/x.png", "data:image/png;base64,aa"]}
  d: {foreach: {file: made.jsonl}, prompt: "{{ item }}", needs: [make]}
  e: {foreach: {file: "-", format: lines}, prompt: "{{ item }}"}
  f: {foreach: {file: "{{ run.id }}.csv", format: csv}, prompt: "{{ item }}"}
  make: {shell: "echo '[1]' > made.jsonl"}
"""
    )
    done = flowllm("validate", "w.yaml", "--json", cwd=project)
    assert done.returncode == 2
    told = [(one["line"], one["severity"], one["message"]) for one in json.loads(done.stdout)[0]["problems"]]
    assert told == [
        (3, "error", "the file rows.csv cannot be read: there is no such file"),
        (4, "error", "the file data cannot be read: it is a folder"),
        (5, "error", "the file ./no.png cannot be read: there is no such file"),
        (6, "warning", "the file made.jsonl cannot be read: there is no such file"),
    ]
    ran = flowllm("run", "w.yaml", "--until", "a", "--db", "memory:", "-q", cwd=project)
    assert (ran.returncode, "DataFailed" in ran.stderr) == (1, True)


def test_validate_reads_the_settings_of_the_project(project: Path) -> None:
    (project / "flowllm.yaml").write_text("defaults: {model: m}\nproviders: {local: {type: simulated}}\n")
    (project / "w.yaml").write_text("name: w\nsteps: {a: {prompt: Hi, provider: local}}\n")
    assert flowllm("validate", "w.yaml", cwd=project).returncode == 0
    (project / "flowllm.yaml").write_text("defalts: {model: m}\n")
    done = flowllm("validate", "w.yaml", cwd=project)
    assert done.returncode == 2
    assert "flowllm.yaml:1:1: unknown key `defalts`" in done.stderr


def test_validate_imports_no_client_and_no_database(project: Path) -> None:
    code = (
        "import sys\n"
        "from flowllm.cli.main import cli\n"
        "try: cli.main(['validate', 'workflows/blog.yaml'], prog_name='flowllm')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = ('openai', 'networkx', 'alembic', 'sqlalchemy', 'rich', 'aiohttp', 'genai_prices', 'pyarrow', 'opentelemetry')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_graph_in_every_format(project: Path) -> None:
    def drawn(form: str) -> str:
        done = flowllm("graph", "workflows/blog.yaml", "--format", form, cwd=project, PYTHONIOENCODING="utf-8")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "3 ── outline   prompt  ◀── headline, intro" in drawn("text")
    assert "s_headline --> s_intro" in drawn("mermaid")
    assert '"headline" -> "intro";' in drawn("dot")
    assert drawn("svg").startswith("<svg ")
    assert json.loads(drawn("json"))["steps"][0]["id"] == "headline"


def test_graph_is_ascii_where_nothing_else_can_be_shown(project: Path) -> None:
    done = flowllm("graph", "workflows/blog.yaml", cwd=project, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "3 -- outline   prompt  <-- headline, intro" in done.stdout


def test_graph_of_a_bad_workflow_tells_its_problems(project: Path) -> None:
    (project / "bad.yaml").write_text(BAD)
    done = flowllm("graph", "bad.yaml", cwd=project)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith("2 problems\n")


def test_db_status_and_upgrade(project: Path) -> None:
    assert "not there yet" in flowllm("db", "status", cwd=project).stdout
    assert not (project / ".flowllm").exists()
    assert "up to date" in flowllm("db", "upgrade", cwd=project).stderr
    found = json.loads(flowllm("db", "status", "--json", cwd=project).stdout)
    assert found["state"] == "current"
    assert found["revision"] == found["newest"]


def test_db_refuses_what_is_no_database(project: Path) -> None:
    (project / "letter.txt").write_text("Dear database, " * 100)
    done = flowllm("db", "upgrade", "--db", "letter.txt", cwd=project)
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("error: ")


def test_doctor_finds_nothing_wrong_here(project: Path) -> None:
    done = flowllm("doctor", cwd=project)
    assert done.returncode == 0, done.stdout
    assert "OPENAI_API_KEY   not set" in done.stdout
    assert "means simulated here" in done.stdout


def test_doctor_never_shows_a_key(project: Path) -> None:
    done = flowllm("doctor", "--json", cwd=project, OPENAI_API_KEY="sk-canary-123456")
    assert "canary" not in done.stdout + done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["OPENAI_API_KEY"]["text"] == "set"
    assert found["provider auto"]["text"] == "means openai here"


def test_doctor_tries_the_server(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"http://user:canary-pw@127.0.0.1:{port}/v1"
        done = flowllm("doctor", cwd=project, OPENAI_BASE_URL=url)
        assert done.returncode == 0
        assert f"127.0.0.1:{port} takes connections" in done.stdout
        assert "canary" not in done.stdout
    done = flowllm("doctor", cwd=project, OPENAI_BASE_URL=url)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} takes no connection" in done.stdout


def test_doctor_names_what_is_wrong(project: Path) -> None:
    (project / "flowllm.yaml").write_text(
        "providers: {work: {type: openai, base_url: 'http://127.0.0.1:1/v1', api_key_env: WORK_KEY}}\n"
    )
    done = flowllm("doctor", cwd=project)
    assert done.returncode == 1
    assert "WORK_KEY         not set (provider work)" in done.stdout
    assert "127.0.0.1:1 takes no connection" in done.stdout
    (project / "letter.txt").write_text("Dear database, " * 100)
    done = flowllm("doctor", "--db", "letter.txt", cwd=project)
    assert done.returncode == 1
    assert "WRONG  database" in done.stdout
