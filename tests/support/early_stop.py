"""Early stop: 100 items of one to two seconds, half of them good, and ten wanted. All at once it costs 100 requests."""

from __future__ import annotations

import asyncio
import random
import statistics
from dataclasses import dataclass

from flowllm.core.request import Completion
from flowllm.core.types import Limits, Usage
from flowllm.storage.base import NodeRecord
from tests.support.calls import FakeProvider
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

ITEMS = 100
WANTED = 10
FLOW = """
defaults: {{provider: fake, model: m}}
providers: {{fake: {{type: simulated}}}}
inputs: {{items: []}}
steps:
  judge:
    foreach: "{{{{ inputs.items }}}}"
    prompt: "Good? {{{{ item }}}}"
    max_concurrent: {window}
    {accept}
"""
ACCEPT = """accept: {{when: "{{{{ output == 'yes' }}}}", count: {wanted}, overshoot: {overshoot}}}"""


class Judge(FakeProvider):
    """Half of all answers are yes, each takes one to two seconds; a seed decides which and how long."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.answers = {f"Good? {n}": (draw.random() < 0.5, 1 + draw.random()) for n in range(ITEMS)}

    async def complete(self, request: object, *, timeout: float) -> Completion:
        good, seconds = self.answers[request.messages[-1]["content"]]
        self.sent.append((asyncio.get_running_loop().time(), request))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(seconds)
        self.in_flight -= 1
        usage = Usage(input_tokens=3, output_tokens=1)
        return Completion(text="yes" if good else "no", model="m", usage=usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of one run, and of the same again."""

    requests: int
    seconds: float
    """Until the step ended."""
    run_seconds: float
    """Until the run ended: what was in flight when the step had enough may finish."""
    node: NodeRecord
    chosen: list[int]
    expected: list[int]
    accepted: int
    """Answers that would have been accepted, of all that came."""
    peak: int
    """Requests in flight at once, at most."""
    again_requests: int
    again_chosen: list[int]


def early_stop(seed: int, *, overshoot: float | None, window: int = 100) -> Seen:
    """Run it, and again; `overshoot` None: without `accept`, stopping nowhere."""
    accept = "" if overshoot is None else ACCEPT.format(wanted=WANTED, overshoot=overshoot)
    text = FLOW.format(window=window, accept=accept)

    async def main() -> Seen:
        stage = Stage()
        stage.provider = judge = Judge(seed)
        stage.limiter.configure(judge.account, Limits(max_concurrent=ITEMS), holder="test")
        how = {"inputs": {"items": list(range(ITEMS))}}
        began = asyncio.get_running_loop().time()
        ready = await stage.prepare(text, **how)
        ended: list[float] = []

        def look(event: object) -> None:
            if type(event).__name__ == "NodeEnded" and event.node_id == "judge":
                ended.append(asyncio.get_running_loop().time())

        ready.on_event = look
        await ready.attempt()
        run_seconds = asyncio.get_running_loop().time() - began
        node = (await stage.nodes())["judge"]
        requests = len(judge.sent)
        good = [n for n in range(ITEMS) if judge.answers[f"Good? {n}"][0]]
        asked = {int(request.messages[-1]["content"].split()[-1]) for _, request in judge.sent}
        again = await stage.prepare(text, run_id="r2", **how)
        await again.attempt()
        second = (await stage.nodes("r2"))["judge"]
        stage.store.discard()  # there are hundreds of these in one test
        return Seen(
            requests=requests,
            seconds=ended[0] - began,
            run_seconds=run_seconds,
            node=node,
            chosen=node.parts.get("chosen", []),
            expected=good[:WANTED],
            accepted=len(asked.intersection(good)),
            peak=judge.peak,
            again_requests=len(judge.sent) - requests,
            again_chosen=second.parts.get("chosen", []),
        )

    return run_virtual(main())


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What many seeds came to."""

    mean: float
    """Requests."""
    p95: int
    step_s: float
    """Mean seconds until the step ended."""
    run_s: float
    thrown: int
    """Accepted answers that were thrown away, at most."""
    again: int
    """Requests of all repeats."""
    wrong: int
    """Runs or repeats that did not choose the first good ones in input order, or whose counts are wrong."""


def figures(seeds: range, *, overshoot: float, window: int = 100) -> Figures:
    """Of a run and its repeat for each seed."""
    seen = [early_stop(seed, overshoot=overshoot, window=window) for seed in seeds]
    requests = sorted(one.requests for one in seen)
    return Figures(
        mean=statistics.mean(requests),
        p95=requests[int(0.95 * len(requests))],
        step_s=statistics.mean(one.seconds for one in seen),
        run_s=statistics.mean(one.run_seconds for one in seen),
        thrown=max(one.accepted for one in seen) - WANTED,
        again=sum(one.again_requests for one in seen),
        wrong=sum(not right(one) for one in seen),
    )


def right(seen: Seen) -> bool:
    """The choice is right both times, and what was not sent is counted."""
    counts = seen.node.counts
    told = (counts.total, counts.accepted, counts.not_sent)
    chosen = seen.chosen == seen.again_chosen == seen.expected
    return chosen and told == (ITEMS, WANTED, ITEMS - seen.requests)
