"""Functions of the user's, as a user runs them."""

from __future__ import annotations

import signal

import pytest

from tests.support.project import Project, killed_at_exit, until
from tests.support.server import Server

KINDS = """
    import collections, enum
    class Mood(str, enum.Enum):
        HAPPY = "happy"
    class Tag(str):
        def __str__(self): return "<tag>"
    def many():
        pair = collections.namedtuple("pair", "a b")(Mood.HAPPY, Tag("t"))
        return {Mood.HAPPY: pair, "big": 2**80, "rows": (n for n in range(2))}
    async def stream():
        yield Mood.HAPPY
    """


def test_a_value_is_the_same_fresh_and_from_the_memo(project: Project) -> None:
    project.write("kinds.py", KINDS)
    steps = {
        "many": {"python": "./kinds.py:many", "cache": True},
        "stream": {"python": "./kinds.py:stream", "cache": True},
        "shown": {"value": "{{ many }} {{ many.happy[0] ~ stream[0] }} {{ many.big + 1 }}"},
    }
    file = project.flow(steps=steps, outputs={"shown": "{{ shown }}", "many": "{{ many }}"})
    fresh, again = project.json("run", file), project.json("run", file)
    assert fresh["outputs"] == again["outputs"]
    assert again["steps"]["many"]["cached"]
    assert fresh["outputs"]["many"] == {"happy": ["happy", "t"], "big": 2**80, "rows": [0, 1]}
    assert fresh["outputs"]["shown"].endswith(f" happyhappy {2**80 + 1}")


def test_what_a_function_leaves_to_the_end_of_the_process_is_done(project: Project) -> None:
    text = "import json\njson.log = open('log.txt', 'w')\ndef f(): return json.log.write('kept in a buffer')\n"
    project.write("tools.py", text)
    outcome = project.run("run", project.flow(steps={"a": {"python": "./tools.py:f"}}), anew=True)
    assert outcome.code == 0, outcome.said
    assert (project.folder / "log.txt").read_text() == "kept in a buffer"


def test_two_graphs_with_helpers_of_one_name_and_an_edit_that_changes_the_key(project: Project) -> None:
    for folder in ("p1", "p2"):
        project.write(f"{folder}/tools.py", "import conf\ndef f(): return conf.f()\n")
        project.write(f"{folder}/conf.py", f"def f(): return '{folder}'\n")
        steps = {"a": {"python": "./tools.py:f", "cache": True}}
        project.write(f"{folder}/c.yaml", {"steps": steps, "outputs": {"a": "{{ a }}"}})
    steps = {name: {"workflow": f"./{name}/c.yaml"} for name in ("p1", "p2")}
    file = project.flow(steps=steps, outputs={"both": "{{ p1.a }} {{ p2.a }}"})
    assert project.json("run", file)["outputs"] == {"both": "p1 p2"}
    project.write("p1/conf.py", "def f(): return 'p3'\n")
    edited = project.json("run", file)
    assert edited["outputs"] == {"both": "p3 p2"}
    assert edited["steps"]["p2"]["cached"]


def test_a_traceback_is_in_show_and_in_debug_and_its_innermost_line_in_the_error(project: Project) -> None:
    project.write("tools.py", "import json\nfrom helper import load\ndef f(): return load('{bad')\n")
    project.write("helper.py", "import json\ndef load(text):\n    return json.loads(text)\n")
    file = project.flow(steps={"a": {"python": "./tools.py:f"}})
    plain, debug = project.cli("run", file), project.cli("run", file, "--debug")
    place = "(helper.py:3, in load: return json.loads(text))"
    assert place in plain.err
    assert "Traceback" not in plain.err
    shown = project.cli("show", "last", "a")
    for text in (debug.err, shown.out):
        assert place in text
    assert 'tools.py", line 3, in f' in debug.err
    called = shown.out.split("(helper.py:3")[1]
    assert called.index("  at helper.py:3, in load") < called.index("  called from tools.py:3, in f")
    assert called.index("called from tools.py") < called.index("within libraries:") < called.index("json/__init__.py:")
    for text in (debug.err, shown.out):
        assert "flowllm_steps" not in text
        assert "/steps/python.py" not in text
    assert project.json("show", "last", "a")["error"]["traceback"].startswith("Traceback")


ASKING = """
    import asyncio
    def plain(ask):
        try:
            return [ask("one [sleep=0.5] [text=1]"), ask("two [text=2]"), ask("three [text=3]")]
        except BaseException:
            return "made up"
    async def coroutine(ask):
        return await asyncio.gather(ask("four [sleep=0.5] [text=4]"), ask("five [sleep=0.5] [text=5]"))
    """


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_functions_that_ask_are_gone_on_with_after_a_stop_and_a_crash(
    how: int, project: Project, server: Server
) -> None:
    project.write("tools.py", ASKING)
    steps = {name: {"python": f"./tools.py:{name}", "asks": True} for name in ("plain", "coroutine")}
    file = project.flow(steps=steps, outputs={"all": "{{ plain + coroutine }}"}, limits={"max_concurrent": 3})
    process = project.start("run", file)
    with killed_at_exit(process):
        until(lambda: len(server.requests) == 3, "three questions", of=process)
        process.send_signal(how)
        outcome = project.finish(process)
    assert outcome.code == (130 if how == signal.SIGINT else -signal.SIGKILL), outcome.said
    assert len(server.requests) == 3
    resumed = project.json("resume")
    assert resumed["outputs"] == {"all": ["1", "2", "3", "4", "5"]}
    repeated = 0 if how == signal.SIGINT else 3
    assert len(server.requests) == 5 + repeated
    shown = project.json("show", "last", "plain")
    assert list(shown["steps"]) == ["plain.ask[0]", "plain.ask[1]", "plain.ask[2]"]
    assert shown["usage"]["output_tokens"] == sum(one["usage"]["output_tokens"] for one in shown["steps"].values())
    assert project.json("show", "last", "plain.ask[2]")["output"] == "3"


@pytest.mark.parametrize(
    "call", ["flowllm.run('inner.yaml')", "asyncio.run(own())", "next(ThreadPoolExecutor().map(one, 'i'))"]
)
def test_a_run_within_a_function_is_refused_with_what_to_do(call: str, project: Project, server: Server) -> None:
    project.write("inner.yaml", {"steps": {"a": {"prompt": "q", "model": "m"}}})
    code = """
        import asyncio, flowllm
        from concurrent.futures import ThreadPoolExecutor
        def one(_): return flowllm.run("inner.yaml")
        async def own():
            async with flowllm.FlowLLM() as app:
                await app.run("inner.yaml")
        def work(): return CALL
        """
    project.write("tools.py", code.replace("CALL", call))
    file = project.flow(steps={"a": {"python": "./tools.py:work"}})
    outcome = project.cli("run", file)
    assert outcome.code == 1
    assert "within the python step a" in outcome.err or "within a python step" in outcome.err
    assert "asks: true" in outcome.err
    assert not server.requests


def test_what_may_be_asked_is_in_the_plan_and_in_the_graph(project: Project) -> None:
    project.write("tools.py", "def work(ask): return ask('q')\n")
    file = project.flow(steps={"a": {"python": "./tools.py:work", "asks": True}})
    planned = project.json("plan", file, OPENAI_API_KEY="k")
    assert planned["steps"]["a"]["requests"] is None
    assert "asks models" in planned["steps"]["a"]["why"]
    assert "python, asks" in project.cli("graph", file).out


def test_what_functions_and_their_child_processes_print_is_not_among_the_results(project: Project) -> None:
    code = """
        import os, subprocess, sys, threading
        class Ear:
            def __init__(self):
                self.stream, self.heard = sys.stderr, threading.Event()
            def write(self, text):
                self.stream.write(text)
                if "has held" in text: self.heard.set()
            def flush(self): self.stream.flush()
        def work():
            print("from print")
            os.write(1, b"from write\\n")
            subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
            return 1
        async def holds():
            sys.stderr = ear = Ear()
            heard = ear.heard.wait(60)
            sys.stderr = ear.stream
            return 2
        """
    project.write("tools.py", code)
    steps = {name: {"python": f"./tools.py:{name}"} for name in ("work", "holds")}
    file = project.flow(steps=steps, outputs={"a": "{{ work + holds }}"})
    outcome = project.run("run", file, "--json")
    assert outcome.code == 0, outcome.said
    assert outcome.json["outputs"] == {"a": 3}
    for line in ("from print", "from write", "from a child"):
        assert line in outcome.err
    assert "flowllm: the python step holds has held the event loop for 2 s (tools.py:" in outcome.err
    assert "in holds: heard = ear.heard.wait(60)" in outcome.err
    project.write("rows.jsonl", "{}\n{}\n")
    file = project.flow(steps={"work": steps["work"]}, outputs={"a": "{{ work }}"})
    lines = project.run("run", file, "--over", "rows.jsonl", "--output", "-")
    assert lines.code == 0, lines.said
    assert [line[:9] for line in lines.out.splitlines()] == ['{"index":'] * 2
