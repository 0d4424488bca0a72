"""What docs/deploy/ has for Kubernetes and Slurm: commands are those that flowllm has, and scripts do what they say."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowllm.cli.main import cli
from flowllm.cli.options import Globals
from tests.support.documentation import ROOT
from tests.support.warm import command

DEPLOY = ROOT / "docs" / "deploy"
MANIFESTS = [one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")) if one]
SLURM = (DEPLOY / "slurm.sh").read_text(encoding="utf-8")
COORDINATE = next(one["data"]["coordinate.sh"] for one in MANIFESTS if "coordinate.sh" in one.get("data", {}))
FLOW = """
inputs: {text: }
defaults: {provider: simulated, max_tokens: 20}
limits: {requests_per_minute: RATE, burst: 1}
steps:
  reply: {prompt: "Answer this: {{ inputs.text }}"}
outputs: {reply: "{{ reply }}"}
"""
SRUN = """#!/bin/bash
count=${1#--ntasks=}
shift 2
trap 'kill -TERM $(jobs -p); wait' TERM
for _ in $(seq "$count"); do "$@" & done
wait
"""


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in MANIFESTS:
        template = one.get("spec", {}).get("template")
        if template is not None:
            yield one["metadata"]["name"], template["spec"]


def commands_of(script: str) -> list[list[str]]:
    """Every `flowllm …` of a script, in words."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line.replace("$(", " ").replace(")", " "), comments=True)
        if "flowllm" in words:
            after = words[words.index("flowllm") + 1 :]
            end = next((i for i, word in enumerate(after) if word in {"&", "|", ";", "||", "&&"}), len(after))
            found.append(after[:end])
    return found


def all_commands() -> list[list[str]]:
    found = [*commands_of(SLURM), *commands_of(COORDINATE)]
    found += [one["args"] for _, pod in pods() for one in pod["containers"] if "command" not in one]
    return found


def test_there_are_as_many_commands_as_can_be_seen() -> None:
    assert sorted(words[0] for words in all_commands()) == [*["resume"] * 2, *["run"] * 2, *["runs"] * 2, *["work"] * 2]


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_is_one_of_flowllms(words: list[str]) -> None:
    root = cli.make_context("flowllm", list(words), obj=Globals())
    named = cli.get_command(root, words[0])
    assert named is not None
    named.make_context(words[0], list(words[1:]), parent=root)


def test_what_the_manifest_refers_to_is_in_it() -> None:
    named = {(one["kind"], one["metadata"]["name"]) for one in MANIFESTS}
    assert len(named) == len(MANIFESTS)
    assert all(one["apiVersion"] for one in MANIFESTS)
    for name, pod in pods():
        volumes = {one["name"]: one for one in pod.get("volumes", [])}
        for one in volumes.values():
            if "configMap" in one:
                assert ("ConfigMap", one["configMap"]["name"]) in named, name
            if "secret" in one:
                assert ("Secret", one["secret"]["secretName"]) in named, name
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes), name
            for source in container.get("envFrom", []):
                assert ("Secret", source["secretRef"]["name"]) in named, name


def test_pods_get_longer_to_end_than_requests_in_flight() -> None:
    graces = [pod.get("terminationGracePeriodSeconds", 30) for name, pod in pods() if name != "pooler"]
    assert graces
    assert min(graces) > 60


class Place:
    """A folder with what the scripts expect, and the commands of a cluster."""

    def __init__(self, folder: Path, *, rate: int, rows: int) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.bin = command(folder / "bin").parent
        self.file("bin/srun", SRUN)
        self.file("bin/scontrol", '#!/bin/sh\necho "$@" >> requeued\n')
        self.file("bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.file("venv/bin/activate", "")
        self.file("keys.env", f"FLOWLLM_DATABASE_URL={folder / 'x.db'}\n")
        self.file("reviews.yaml", FLOW.replace("RATE", str(rate)))
        self.file("reviews.jsonl", "".join(json.dumps({"text": f"Tea {n}"}) + "\n" for n in range(rows)))

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    @property
    def output(self) -> list[Any]:
        path = self.folder / "replies.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_more(self, process: subprocess.Popen[str]) -> None:
        """Until there is another line of output."""
        before = len(self.output)
        while len(self.output) == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    @contextmanager
    def script(self, text: str, **more: str) -> Iterator[subprocess.Popen[str]]:
        """Run it, and end it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "FLOWLLM_"))}
        process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=self.folder,
            env={**kept, "PATH": f"{self.bin}:{kept['PATH']}", **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.communicate(timeout=30)

    def slurm(self) -> Any:
        return self.script(SLURM, SLURM_JOB_ID="7", SLURM_NTASKS="2")


def test_the_slurm_script_has_all_rows_executed_by_workers(tmp_path: Path) -> None:
    place = Place(tmp_path, rate=60_000, rows=30)
    with place.slurm() as job:
        said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert sorted(line["index"] for line in place.output) == list(range(30)), said
    assert "working at run" in said


def test_a_slurm_job_whose_time_is_over_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path, rate=300, rows=1000)
    for turn in (1, 2):
        with place.slurm() as job:
            place.wait_for_more(job)
            job.send_signal(signal.SIGTERM)
            said, _ = job.communicate(timeout=60)
        assert job.returncode == 143, said
        assert (tmp_path / "requeued").read_text() == "requeue 7\n" * turn
        assert ("resuming" in said) is (turn == 2), said
    assert len({line["index"] for line in place.output}) == len(place.output)


def test_a_coordinator_that_is_started_again_goes_on_with_its_run(tmp_path: Path) -> None:
    place = Place(tmp_path, rate=300, rows=1000)
    here = COORDINATE.replace("/flow/", f"{tmp_path}/").replace("/data/", f"{tmp_path}/")
    names = {"FLOWLLM_DATABASE_URL": str(tmp_path / "x.db"), "TAG": "reviews-1"}
    with place.script("exec flowllm work", **names):
        for turn in (1, 2):
            with place.script(here, **names) as coordinator:
                place.wait_for_more(coordinator)
                coordinator.send_signal(signal.SIGTERM)
                said, _ = coordinator.communicate(timeout=60)
            assert coordinator.returncode == 143, said
            assert ("resuming" in said) is (turn == 2), said
    assert len({line["index"] for line in place.output}) == len(place.output)
