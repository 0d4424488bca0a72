"""A process that may have few files open, of which connections are some."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowllm import FlowLLM
from flowllm.core import descriptors
from flowllm.core.types import RunStatus
from tests.support.project import Project
from tests.support.replies import Reply, echo
from tests.support.server import Server, running_server

ITEMS = 60
FEW = 8
STEPS = {
    "asked": {"foreach": f"{{{{ range({ITEMS}) | list }}}}", "prompt": "n {{ item }}"},
    "read": {
        "foreach": f"{{{{ range({ITEMS}) | list }}}}",
        "python": "./reading.py:read",
        "with": {"name": "{{ item }}"},
    },
    "fetched": {
        "foreach": f"{{{{ range({ITEMS}) | list }}}}",
        "http": {"url": "{{ inputs.url }}/models?n={{ item }}", "allow_private": True},
    },
}
READING = """
import asyncio

async def read(name):
    with open(__file__) as file:
        await asyncio.sleep(0.01)
        return len(file.read())
"""


@contextlib.contextmanager
def may_open(more: int) -> Iterator[int]:
    """Lower what this process may have open to that many more; gives the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # what other tests have left open is not to be closed meanwhile
    most = sum(1 for _ in Path("/dev/fd").iterdir()) + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_run_of_a_library_opens_no_more_than_is_left_to_it_and_says_so(project: Project) -> None:
    told: list[str] = []

    class Notices:
        def handle(self, event: object) -> None:
            told.append(getattr(event, "message", ""))

    with running_server(latency=0.02) as server:
        project.write("reading.py", READING)
        file = project.folder / project.flow(
            inputs={"url": server.url},
            providers={"s": {"type": "openai", "base_url": server.url, "limits": {"max_concurrent": ITEMS}}},
            defaults={"provider": "s", "model": "m"},
            steps=STEPS,
        )

        async def main() -> None:
            async with FlowLLM(database=project.database, environ={}) as app:
                with may_open(descriptors.RESERVE + FEW) as most:
                    run = await app.run(file, observers=[Notices()])
                    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most, "it is the host's"
            assert run.status is RunStatus.SUCCEEDED, run.as_dict()
            assert run.as_dict()["requests"]["sent"] == ITEMS

        asyncio.run(main())
        assert 0 < server.peak <= FEW
    (notice,) = [words for words in told if "ulimit -n" in words]
    assert notice.startswith("at most ")


def test_the_command_raises_the_limit_as_far_as_it_may(project: Project, server: Server) -> None:
    file = project.flow(steps={"a": {"prompt": "hello"}})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = 0

    def script(body: dict[str, Any], n: int) -> Reply:
        nonlocal raised
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return echo(body, n)

    server.script = script
    with may_open(descriptors.RESERVE + FEW) as most:
        outcome = project.cli("run", file)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most
    assert outcome.code == 0, outcome.said
    assert "ulimit" not in outcome.err
    assert most < raised <= hard
    assert len(server.requests) == 1
