"""One node from its start to its end on record, on a virtual clock."""

from __future__ import annotations

import asyncio

from flowllm.core.cancel import CallStopped
from flowllm.core.errors import StorageFailed, TooManyFailures
from flowllm.core.types import NodeStatus
from tests.support.answering import Told, sit, stage
from tests.support.run_attempts import PreparedAttempt
from tests.support.virtual import run_virtual

TWO = "steps: {a: {prompt: a}, b: {prompt: '{{ a }}'}}"


def play(text: str, answer: object = "re: {}".format, **how: object) -> Told:
    async def main() -> Told:
        return await sit(stage(answer), text, **how)

    return run_virtual(main())


def broken_by(error: BaseException) -> tuple[str, PreparedAttempt, dict]:
    """A run whose first node raises this, outside of what a step may raise."""

    async def main() -> tuple[str, PreparedAttempt, dict]:
        made = stage()
        ready = await made.prepare(TWO)
        kind = ready.kinds[ready.checked.steps["a"].kind]

        class Broken:
            bind, work = kind.bind, kind.work

            async def run(self, bound: object, context: object) -> None:
                await asyncio.sleep(1)
                raise error

        ready.context.kinds = {**ready.kinds, ready.checked.steps["a"].kind: Broken()}
        outcome = await ready.attempt()
        return outcome.status.value, ready, await made.nodes()

    return run_virtual(main())


def test_a_fault_of_the_program_fails_the_node_with_its_place_and_not_the_process() -> None:
    status, _, nodes = broken_by(KeyError("lost"))
    assert (status, nodes["a"].status, nodes["b"].status) == ("failed", NodeStatus.FAILED, NodeStatus.BLOCKED)
    assert nodes["a"].error["type"] == "InternalError"
    assert nodes["a"].key, "it was bound: a resume can compare it"


def test_a_node_of_a_run_that_stops_has_no_outcome() -> None:
    status, ready, nodes = broken_by(CallStopped())
    assert "a" not in nodes or nodes["a"].status is NodeStatus.RUNNING
    assert ready.ended == []
    assert status != "succeeded"


def test_what_ends_a_run_early_and_what_cannot_be_kept_end_it_in_their_own_status() -> None:
    status, ready, _ = broken_by(TooManyFailures("9 of 9 nodes failed"))
    assert (status, ready.context.stopped.message) == ("failed", "9 of 9 nodes failed")
    status, ready, _ = broken_by(StorageFailed("the disk is full"))
    assert (status, str(ready.context.failure)) == ("interrupted", "the disk is full")


def test_a_false_when_skips_the_node_and_what_needs_it() -> None:
    told = play("steps: {a: {when: '{{ false }}', prompt: a}, b: {prompt: '{{ a }}'}}")
    assert told.status_of("a", "b") == ["skipped", "skipped"]
    assert told.asked == []
    assert told.nodes["a"].parts == {"when": False}


def test_a_template_that_fails_fails_the_node_before_it_has_a_key() -> None:
    told = play("steps: {a: {prompt: '{{ 1 / 0 }}'}}")
    assert (told.status, told.nodes["a"].key, told.asked) == ("failed", "", [])


def test_a_resume_keeps_what_holds_and_repeats_what_failed() -> None:
    async def main() -> None:
        made = stage(
            lambda prompt: RuntimeError("odd") if prompt == "re: a" and len(made.provider.sent) < 2 else f"re: {prompt}"
        )
        first = await sit(made, TWO)
        assert first.status_of("a", "b") == ["succeeded", "failed"]
        again = await sit(made, TWO)
        assert (again.status, again.asked) == ("succeeded", ["re: a"])
        assert (again.nodes["a"].epoch, again.nodes["b"].epoch) == (1, 2)

    run_virtual(main())
