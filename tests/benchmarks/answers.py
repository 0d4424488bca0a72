"""What a call costs by the size of its answer."""

from __future__ import annotations

import statistics

from tests.benchmarks.harness import Figure, Scale, alternately, provider_of, serving, timed_run
from tests.benchmarks.server import Behaviour

_FLOW = """
limits: {{max_concurrent: 20}}
steps:
  ask: {{foreach: "{{{{ range({calls}) | list }}}}", prompt: "{salt} Tell me about {{{{ item }}}}."}}
"""


def answers(scale: Scale) -> list[Figure]:
    """Calls of 0 ms whose answers are longer and longer."""
    calls, sizes = scale.of(1_000, 200), (100, 1_000, 10_000, 100_000)
    with serving(Behaviour()) as server:

        def took(number: int, size: int) -> float:
            server.begin_anew(Behaviour(answer_bytes=size))
            text = _FLOW.format(calls=calls, salt=f"{number} {size}")
            return timed_run(scale.folder / "answers.db", provider_of(server) + text)

        took(-1, 100)
        found = alternately(scale.runs, *(lambda number, size=size: took(number, size) for size in sizes))
    return [
        Figure(what=f"a call whose answer has {size:,} bytes", value=statistics.median(one) / calls * 1e6, unit="µs")
        for size, one in zip(sizes, found, strict=True)
    ]
