"""How close a run comes to its critical path: python -m tests.benchmarks.critical_path [RUNS] [LATENCY]

The blog's longest path is three calls. Against a server that takes LATENCY seconds for each, a run takes three
times that and what flowllm adds. What the server and the client take by themselves is measured by the same process,
with a workflow of one call, and told beside it; the median of RUNS counts. A run of real life has calls of seconds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from tests.support.project import ROOT, Project, prompts
from tests.support.server import running_server

PATH = 3
"""Calls one after another in the blog: headline, intro, outline."""


def durations(project: Project, file: str, runs: int) -> list[float]:
    """Seconds from the start of each run to its end, as it tells itself."""
    return [float(project.json("run", file, "--no-cache")["duration_s"]) for _ in range(runs)]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    latency = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
    with running_server(latency=latency) as server, tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), server.url)
        single = project.flow(steps=prompts(a="one call"))
        durations(project, single, 1)  # imports the client
        one = statistics.median(durations(project, single, runs))
        blog = durations(project, str(ROOT / "workflows" / "blog.yaml"), runs)
        process = project.run("run", ROOT / "workflows" / "blog.yaml", "--no-cache", "--json").json["duration_s"]
    ratio = statistics.median(blog) / (PATH * latency)
    print(f"latency {latency:g} s, critical path {PATH} calls = {PATH * latency:g} s")
    print(f"blog: median {statistics.median(blog):.3f} s of {runs}, {min(blog):.3f} to {max(blog):.3f}")
    print(f"ratio to the critical path: {ratio:.4f} (+{(ratio - 1) * 100:.1f} %); under +5 %: {ratio < 1.05}")
    print(f"ratio to three runs of one call each: {statistics.median(blog) / (PATH * one):.4f}")
    print(f"first run of a process, the import of the client included: {process:.3f} s")


if __name__ == "__main__":
    main()
