from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import TemplateFailed
from flowllm.core.types import Json, NodeStatus, RunId
from flowllm.runtime.foreach_state import AcceptPolicy, Ended, FailureTolerance, ForeachState, OpenItemLimit

R1 = RunId("r1")

OK, BAD, SKIPPED = NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED


def ended(index: int, status: NodeStatus = OK, output: Json = None) -> Ended:
    return Ended(index=index, number=index, status=status, item=index, output=output)


def good(ended: Ended, accepted: Sequence[Json]) -> bool:
    return ended.output == "good"


def one_of_each(ended: Ended, accepted: Sequence[Json]) -> bool:
    return ended.output != "none" and ended.output not in accepted


def policy(count: int = 2, *, overshoot: float = 1.0, ordered: bool = False, judge: object = good) -> AcceptPolicy:
    return AcceptPolicy(count=count, overshoot=overshoot, ordered=ordered, judge=judge)


def pull(state: ForeachState, *, most: int = 1_000, answered: bool = False) -> list[int]:
    """Pull as long as there is limit; of each item it is known at once that it must be asked, unless `answered`."""
    pulled = []
    while state.may_pull() and len(pulled) < most:
        index = state.next_index
        state.pulled(index)
        if not answered:
            state.missed(index)
        pulled.append(index)
    return pulled


# the window


def test_each_item_that_ends_makes_room_for_one_more() -> None:
    state = ForeachState(window=3, total=10)
    assert pull(state) == [0, 1, 2]
    state.ended(ended(1))
    assert (state.may_pull(), pull(state)) == (1, [3])
    assert state.in_flight == 3


def test_it_is_over_when_the_data_has_ended_and_all_items_have() -> None:
    state = ForeachState(window=2)
    pull(state)
    state.drained()
    assert (state.total, state.over, state.may_pull()) == (2, False, 0)
    state.ended(ended(1))
    state.ended(ended(0, SKIPPED))
    assert state.over
    assert (state.chosen(), state.verdict("x", R1)) == (None, None)


def test_no_items_are_over_at_once() -> None:
    state = ForeachState(window=2, total=0)
    assert (state.over, state.may_pull(), state.verdict("x", R1)) == (True, 0, None)


def test_it_is_never_over_without_the_outcome_of_an_item_that_was_withdrawn() -> None:
    """Else a run that is stopped in the middle would record a list that lacks items."""
    state = ForeachState(window=2, total=2)
    pull(state)
    state.ended(ended(0))
    state.withdrawn(1)
    assert (state.in_flight, state.over) == (0, False)


# accept


def test_the_first_accepted_ones_in_input_order_are_chosen_whatever_order_they_end_in() -> None:
    state = ForeachState(window=9, total=9, policy=policy(2, overshoot=2))
    assert pull(state) == [0, 1, 2, 3]
    for index in (3, 2):
        state.ended(ended(index, output="good"))
    assert not state.over, "an item before them may still be accepted"
    state.ended(ended(1, output="good"))
    state.ended(ended(0, output="bad"))
    assert (state.over, state.chosen()) == (True, [1, 2])
    assert state.counts(not_pulled=5).as_dict() == {
        "total": 9,
        "succeeded": 4,
        "failed": 0,
        "skipped": 0,
        "accepted": 2,
        "not_sent": 5,
    }


def test_it_is_over_while_items_behind_the_last_chosen_one_are_still_out() -> None:
    state = ForeachState(window=9, total=9, policy=policy(1, overshoot=3))
    pull(state)
    state.ended(ended(0, output="good"))
    assert (state.over, state.in_flight, state.chosen()) == (True, 2, [0])


def test_an_item_withdrawn_before_the_last_accepted_one_leaves_the_choice_open() -> None:
    state = ForeachState(window=9, total=9, policy=policy(1, overshoot=2))
    pull(state)
    state.withdrawn(0)
    state.ended(ended(1, output="good"))
    assert not state.over


def test_an_item_is_pulled_only_when_it_is_known_of_those_before_whether_they_must_be_asked() -> None:
    state = ForeachState(window=9, total=9, policy=policy(5))
    assert pull(state, answered=True) == [0]
    state.missed(0)
    assert pull(state, answered=True) == [1]
    state.ended(ended(1, output="bad"))
    assert state.may_pull() == 1


def test_items_that_end_out_of_order_wait_for_their_turn_to_be_judged() -> None:
    state = ForeachState(window=9, total=9, policy=policy(2, overshoot=2, ordered=True, judge=one_of_each))
    pull(state)
    state.ended(ended(1, output="toys"))
    assert (state.judged(), state.counts().accepted) == ([], 0)
    state.ended(ended(0, output="toys"))
    assert (state.judged(), state.chosen_outputs()) == ([0, 1], ["toys"])
    state.ended(ended(2, output="books"))
    assert (state.over, state.chosen(), state.chosen_outputs()) == (True, [0, 2], ["toys", "books"])


def test_an_item_whose_judgement_cannot_be_told_counts_as_failed() -> None:
    def judge(ended: Ended, accepted: Sequence[Json]) -> bool:
        if ended.output == "odd":
            raise TemplateFailed("`accept.when` is not true or false")
        return True

    state = ForeachState(window=9, total=2, policy=policy(2, judge=judge))
    pull(state)
    ((wrong, error),) = state.ended(ended(0, output="odd"))
    assert (wrong.index, error.message) == (0, "`accept.when` is not true or false")
    state.ended(ended(1, output="even"))
    state.drained()
    assert state.over
    assert (state.counts().succeeded, state.counts().failed) == (1, 1)
    assert "1 of 2 items failed; x[0]: `accept.when` is not true or false" in str(state.verdict("x", R1))


def test_failed_items_are_put_up_with_once_enough_are_accepted_and_not_before() -> None:
    state = ForeachState(window=9, total=3, policy=policy(1))
    pull(state)
    state.ended(ended(0, BAD), "no")
    assert (state.over, state.may_pull()) == (False, 1)
    pull(state)
    state.ended(ended(1, output="good"))
    assert (state.over, state.verdict("x", R1), state.chosen()) == (True, None, [1])


def test_data_that_ends_earlier_gives_fewer() -> None:
    state = ForeachState(window=9, total=2, policy=policy(2))
    pull(state)
    state.ended(ended(0, output="good"))
    state.ended(ended(1, output="bad"))
    state.drained()
    assert (state.over, state.chosen(), state.verdict("x", R1)) == (True, [0], None)


@given(
    outputs=st.lists(st.sampled_from(["good", "bad", "fails", "skipped"]), max_size=40),
    count=st.integers(1, 12),
    overshoot=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    window=st.integers(1, 20),
    ordered=st.booleans(),
    choose=st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_accept_holds_its_promises_in_any_order_of_endings(
    *, outputs: list[str], count: int, overshoot: float, window: int, ordered: bool, choose: object
) -> None:
    status = {"fails": BAD, "skipped": SKIPPED}
    state = ForeachState(window=window, total=len(outputs), policy=policy(count, overshoot=overshoot, ordered=ordered))
    aloft: list[int] = []
    asked = 0
    while not state.over:
        needed = count - state.counts().accepted
        while state.may_pull():
            if state.next_index == len(outputs):
                state.drained()
                break
            aloft.append(state.next_index)
            state.pulled(state.next_index)
            state.missed(aloft[-1])
            asked += 1
            assert len(aloft) <= min(window, math.ceil(overshoot * needed))
        if state.over:
            break
        index = aloft.pop(choose.randrange(len(aloft)))
        state.ended(ended(index, status.get(outputs[index], OK), outputs[index]))
    wanted = [index for index, output in enumerate(outputs) if output == "good"][:count]
    counts = state.counts(not_pulled=len(outputs) - asked)
    told = counts.succeeded + counts.failed + counts.skipped + counts.not_sent
    assert (state.chosen(), counts.accepted) == (wanted, len(wanted))
    assert (counts.total, told + len(aloft)) == (len(outputs), len(outputs))
    if overshoot == 1.0:
        thrown = [index for index in range(asked) if outputs[index] == "good"]
        assert thrown == wanted, "an accepted answer was paid for and thrown away"


@given(st.lists(st.sampled_from(["toys", "books", "none"]), max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_one_of_each_category_is_chosen_as_if_items_came_one_by_one(outputs: list[str], choose: object) -> None:
    state = ForeachState(window=7, total=len(outputs), policy=policy(2, overshoot=3, ordered=True, judge=one_of_each))
    aloft: list[int] = []
    while not state.over:
        while state.may_pull() and state.next_index < len(outputs):
            aloft.append(state.next_index)
            state.pulled(aloft[-1])
            state.missed(aloft[-1])
        if state.may_pull():
            state.drained()
            continue
        index = aloft.pop(choose.randrange(len(aloft)))
        state.ended(ended(index, output=outputs[index]))
    first = dict.fromkeys(output for output in outputs if output != "none")
    assert state.chosen() == [outputs.index(output) for output in first][:2]


# failures


def finished(statuses: str, tolerated: FailureTolerance, *, total: int | None = None) -> ForeachState:
    """After items that ended in order: x failed, s was skipped, anything else succeeded."""
    state = ForeachState(window=100, total=total, tolerated=tolerated)
    for index, letter in enumerate(statuses):
        if not state.may_pull():
            break
        state.pulled(index)
        state.ended(ended(index, {"x": BAD, "s": SKIPPED}.get(letter, OK)), f"broke at {index}")
    else:
        if not state.over:
            state.drained()
    return state


@pytest.mark.parametrize(
    ("statuses", "tolerated", "fails"),
    [
        (".....", FailureTolerance(), False),
        ("sssss", FailureTolerance(), False),
        ("..x..", FailureTolerance(), True),
        ("..x..", FailureTolerance(forgiven=True), False),
        ("xx", FailureTolerance(forgiven=True), True),
        ("xs", FailureTolerance(forgiven=True), False),
        ("", FailureTolerance(forgiven=True), False),
        ("x.x..", FailureTolerance(forgiven=True, most=2), False),
        ("x.x.x", FailureTolerance(forgiven=True, most=2), True),
        ("....x", FailureTolerance(forgiven=True, most=0), True),
        ("x" + 19 * ".", FailureTolerance(forgiven=True, share=0.05), False),
        ("x" + 18 * ".", FailureTolerance(forgiven=True, share=0.05), True),
        ("xx", FailureTolerance(forgiven=True, share=1.0), False),
    ],
)
def test_the_step_fails_if_more_items_fail_than_are_allowed(
    statuses: str, tolerated: FailureTolerance, fails: bool
) -> None:
    state = finished(statuses, tolerated)
    assert state.over
    assert (state.verdict("x", R1) is not None) == fails


def test_it_names_the_failed_item_that_is_first_in_the_data() -> None:
    state = ForeachState(window=3, total=3)
    pull(state)
    state.ended(ended(2, BAD), "late")
    state.ended(ended(1, BAD), "early")
    state.ended(ended(0))
    assert "2 of 3 items failed; posts[1]: early" in str(state.verdict("posts", R1))


def test_nothing_more_is_pulled_once_too_many_have_failed() -> None:
    number = finished("x.x.x.....", FailureTolerance(forgiven=True, most=1))
    assert (number.next_index, number.over, number.may_pull()) == (3, True, 0)
    share = finished("xx........", FailureTolerance(forgiven=True, share=0.1), total=10)
    assert (share.next_index, share.over) == (2, True)
    unknown = finished("xx........", FailureTolerance(forgiven=True, share=0.1))
    assert unknown.next_index == 10, "only at the end is it known of how many"
    assert unknown.verdict("x", R1) is not None


def test_counts_of_a_step_that_stopped_early_add_up() -> None:
    state = finished("x.x.x.....", FailureTolerance(forgiven=True, most=1))
    counts = state.counts(not_pulled=7)
    assert (counts.total, counts.succeeded, counts.failed, counts.not_sent) == (10, 1, 2, 7)


def test_a_foreach_without_open_items_may_always_open_one() -> None:
    limit = OpenItemLimit(2)
    for _ in range(5):
        limit.opened()
    assert limit.may_open(0), "else foreaches within foreaches could wait for each other for ever"
    assert not limit.may_open(1)


def test_there_is_room_again_when_an_item_has_ended() -> None:
    limit = OpenItemLimit(1)
    limit.opened()
    assert not limit.may_open(1)
    limit.closed()
    assert limit.may_open(1)


def test_who_waited_longest_is_called_back_once() -> None:
    limit, called = OpenItemLimit(1), []
    limit.opened()
    limit.wait(lambda: called.append("a") is None)
    limit.wait(lambda: called.append("b") is None)
    limit.closed()
    assert called == ["a"]
    limit.closed()
    limit.closed()
    assert called == ["a", "b"]


def test_room_that_is_of_no_use_to_the_first_goes_to_the_next() -> None:
    """A foreach may have ended since it asked."""
    limit, called = OpenItemLimit(1), []
    limit.wait(lambda: False)
    limit.wait(lambda: called.append("b") is None)
    limit.wait(lambda: called.append("c") is None)
    limit.closed()
    assert called == ["b"]
