"""Steps with `resources` on Ray: real clusters, one of them shared by the tests of this file."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowllm.cluster.process import session
from tests.support.dataset import each_once, texts
from tests.support.postgres import database
from tests.support.project import HANG, Outcome, Project, killed_at_exit, until
from tests.support.ray_head import Head, alive, free_port, ray_head
from tests.support.server import Server

IN_FLIGHT = 10
TOOLS = """
import os, pathlib, signal, time
from helper import twice

def double(n):
    print("doubling", n)
    return {"n": twice(n), "beside": pathlib.Path(__file__).with_name("schema.json").exists(), "t": (n,)}

async def both(values):
    return values

def fails(secret):
    raise ValueError(f"no {secret}")

def dies(path):
    path = pathlib.Path(path)
    first = not path.exists()
    path.touch()
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"

def slow(seconds, begun="begun"):
    pathlib.Path(begun).touch()
    time.sleep(seconds)

def environment():
    return sorted(name for name in os.environ if name.endswith("_KEY"))
"""
SECRET = "sk-the-secret-of-this-test-1234567890"


def written(project: Project) -> None:
    project.write("tools.py", TOOLS)
    project.write("helper.py", "def twice(n):\n    return 2 * n\n")
    project.write("schema.json", '{"type": "string"}')


def steps(project: Project, resources: dict[str, object] | None) -> str:
    """The same steps, with resources or without."""
    more = {} if resources is None else {"resources": resources}
    return project.flow(
        name="flow.yaml" if more else "here.yaml",
        steps={
            "items": {"foreach": "{{ [1, 2, 3] }}", "python": "./tools.py:double", "with": {"n": "{{ item }}"}, **more},
            "both": {"python": "./tools.py:both", "with": {"values": "{{ items }}"}, **more},
            "module": {"python": "statistics:mean", "with": {"data": [1, 3]}, **more},
            "schema": {"prompt": "hi", "output": "./schema.json", "provider": "simulated"},
        },
        outputs={"both": "{{ both }}", "module": "{{ module }}"},
    )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as head:
        yield head


def test_without_a_cluster_a_run_is_refused_before_anything_is_sent(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(project)
    flow = steps(project, {"cpu": 1})
    refused = project.cli("run", flow)
    assert refused.code == 2
    assert "flow.yaml:" in refused.err
    assert "step items has `resources`, which take a cluster" in refused.err
    assert "--cluster ray" in refused.err
    assert project.run_ids() == []
    assert project.cli("plan", flow).code == 0
    assert project.cli("run", flow, "--cluster", "slurm").code == 2

    found = importlib.util.find_spec
    monkeypatch.setattr("flowllm.cluster.process.find_spec", lambda name: None if name == "ray" else found(name))
    missing = project.cli("run", flow, "--cluster", "ray")
    assert missing.code == 2
    assert "pip install 'flowllm[ray]'" in missing.err


def test_a_cluster_that_does_not_answer_pauses_the_run(project: Project) -> None:
    written(project)
    flow = project.flow(steps={"a": {"python": "./tools.py:both", "with": {"values": 1}, "resources": {"cpu": 1}}})
    paused = project.cli("run", flow, "--cluster", f"ray://127.0.0.1:{free_port()}")
    assert paused.code == 3, paused.said
    assert "ClusterDown: Ray cannot be used at ray://127.0.0.1:" in paused.err
    assert "resume --cluster" in paused.err


def test_functions_on_a_cluster_give_what_they_give_here(project: Project, head: Head) -> None:
    """Their files travel, what they print is seen, and it is all the same as a cluster's client and as one of its nodes."""
    written(project)
    here = project.json("run", steps(project, None), "--no-cache")["outputs"]
    flow = steps(project, {"cpu": 1, "memory": "1MiB"})
    for address in (head.node, head.client):
        outcome = project.run("run", flow, "--cluster", address, "--json", "--no-cache", **head.environ)
        assert outcome.code == 0, outcome.said
        assert outcome.json["outputs"] == here
        assert here["both"][0] == {"n": 2, "beside": True, "t": [1]}
        assert "doubling 3" in outcome.err


def test_what_goes_wrong_there_is_told_as_it_is_here(project: Project, head: Head) -> None:
    written(project)

    def step(function: str, **more: object) -> dict[str, object]:
        return {"python": f"./tools.py:{function}", "resources": {"cpu": 1}, "on_error": "continue", **more}

    flow = project.flow(
        secrets=["TOKEN"],
        steps={
            "fails": step("fails", **{"with": {"secret": "{{ secrets.TOKEN }}"}}),
            "dies": step(
                "dies",
                **{
                    "with": {"path": str(project.folder / "died")},
                    "retry": {"max_attempts": 2, "initial_delay": "1ms"},
                },
            ),
            "dies_once": step("dies", **{"with": {"path": str(project.folder / "once")}}),
            "late": step("slow", **{"with": {"seconds": 600}, "timeout": "100ms"}),
            "environment": step("environment"),
        },
        outputs={"dies": "{{ dies }}", "environment": "{{ environment }}"},
    )
    run = project.json("run", flow, "--cluster", head.node, TOKEN=SECRET, OPENAI_API_KEY=SECRET, **head.environ)
    assert run["outputs"] == {"dies": "second", "environment": []}, "no key of a provider travels"
    errors = {name: found["error"] for name, found in run["steps"].items() if found["error"]}
    assert errors["fails"]["message"].startswith(
        "fails raised ValueError: no *** (tools.py:13, in fails: raise ValueError"
    )
    assert "tools.py" in errors["fails"]["traceback"]
    assert errors["dies_once"]["type"] == "WorkLost"
    assert errors["late"]["type"] == "NodeTimedOut"
    assert run["steps"]["dies"]["attempts"] == 2
    assert SECRET not in project.cli("show", run["run_id"], "--json", **head.environ).out


class Run:
    """A run whose one step goes on until somebody stops it."""

    def __init__(self, project: Project, cluster: str, *words: str, **environ: str) -> None:
        self.project = project
        written(project)
        begun = str(project.folder / "begun")
        slow = {"python": "./tools.py:slow", "with": {"seconds": 600, "begun": begun}, "resources": {"cpu": 1}}
        flow = project.flow(steps={"slow": slow})
        self.process = project.start("run", flow, "--cluster", cluster, *words, **environ)

    def until_begun(self) -> list[int]:
        """The processes of Ray, the one that leads them first."""
        until((self.project.folder / "begun").exists, "the step", of=self.process)
        [leader] = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if path.read_text().rpartition(")")[2].split()[1] == str(self.process.pid) and leads(path)
        ]
        return [leader, *session(leader)]

    def end(self, number: int) -> Outcome:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=HANG)
        return Outcome(code=self.process.wait(), out=out, err=err)


def leads(path: Path) -> bool:
    try:
        return path.read_text().rpartition(")")[2].split()[3] == path.parent.name
    except OSError:
        return False


def listening(pids: list[int]) -> set[str]:
    """The addresses on which these processes accept connections, as the kernel lists them."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(descriptor.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].rpartition(":")[0])
    return found


def folder_of(leader: int) -> Path:
    """Where Ray has its files, as its process was told."""
    return Path(Path(f"/proc/{leader}/cmdline").read_text().split("\0")[-2])


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


def test_ctrl_c_interrupts_what_is_under_way_there(project: Project, head: Head) -> None:
    run = Run(project, head.node, "--grace", "0s", **head.environ)
    with killed_at_exit(run.process):
        until((project.folder / "begun").exists, "the step", of=run.process)
        outcome = run.end(signal.SIGINT)
    assert outcome.code == 130, outcome.said
    (project.folder / "tools.py").write_text(TOOLS.replace("time.sleep(seconds)", "return 'slept'"))
    resumed = project.run("resume", "--file", "flow.yaml", "--json", **head.environ)
    assert resumed.code == 0, resumed.said
    assert resumed.json["steps"]["slow"]["output"] == "slept", "a resume takes the same cluster"


def test_a_local_cluster_listens_on_loopback_alone_and_ends_with_its_run(project: Project) -> None:
    run = Run(project, "ray")
    with killed_at_exit(run.process):
        pids = run.until_begun()
        folder = folder_of(pids[0])
        found = listening(pids)
        assert found
        assert found <= LOOPBACK
        run.end(signal.SIGKILL)
    nothing_is_left(pids, folder)


def test_a_run_whose_process_of_ray_is_killed_is_paused(project: Project, head: Head) -> None:
    run = Run(project, head.node, **head.environ)
    with killed_at_exit(run.process):
        pids = run.until_begun()
        folder = folder_of(pids[0])
        os.kill(pids[0], signal.SIGKILL)
        _, err = run.process.communicate(timeout=HANG)
        assert run.process.wait() == 3, err
        assert "ClusterDown: the connection to Ray is lost" in err
    nothing_is_left(pids, folder)


def nothing_is_left(pids: list[int], folder: Path) -> None:
    until(lambda: not any(alive(pid) for pid in pids), "Ray's processes to end")
    until(lambda: not folder.exists(), "Ray's files to be removed")


def actors(leader: int) -> list[int]:
    """The processes of actors in a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            named = path.with_name("cmdline").read_text().startswith("ray::WorkerActor")
        except OSError:
            continue
        if named and fields[0] != "Z" and fields[3] == str(leader):
            found.append(int(path.parent.name))
    return found


def test_an_actor_that_is_killed_works_on_and_every_row_is_there_once(
    project: Project, server: Server, head: Head
) -> None:
    """Workers are actors; steps with `resources` within their rows are called on the same cluster."""
    written(project)
    texts(project.folder / "rows.jsonl", 60)
    flow = project.flow(
        limits={"max_concurrent": IN_FLIGHT},
        inputs={"text": ""},
        steps={
            "asked": {"prompt": "{{ inputs.text }}"},
            "both": {"python": "./tools.py:both", "with": {"values": "{{ asked }}"}, "resources": {"cpu": 1}},
        },
        outputs={"both": "{{ both }}"},
    )
    server.hold = 10_000
    words = ("--over", "rows.jsonl", "--output", "out.jsonl", "--workers", 1, "--cluster", head.node)
    with database() as url:
        process = project.start("run", flow, *words, "--db", url, OPENAI_API_KEY=SECRET, **head.environ)
        with killed_at_exit(process):
            until(lambda: len(server.requests) >= IN_FLIGHT, "requests", of=process)
            [actor] = actors(head.session)
            os.kill(actor, signal.SIGKILL)
            server.hold = 0
            out, err = process.communicate(timeout=HANG)
        assert process.wait() == 0, out + err
        assert "Ray starts it again" in err
    each_once(project.folder / "out.jsonl", 60)
    assert {seen.headers["authorization"] for seen in server.requests} == {f"Bearer {SECRET}"}
    kept = [path for path in Path(head.folder).rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == [], "Ray keeps no key"
    assert 60 <= len(server.requests) <= 60 + IN_FLIGHT
