from __future__ import annotations

from flowllm.runtime.open_item_limit import OpenItemLimit


def test_a_foreach_without_open_items_may_always_open_one() -> None:
    room = OpenItemLimit(2)
    for _ in range(5):
        room.opened()
    assert room.may_open(0), "else foreaches within foreaches could wait for each other for ever"
    assert not room.may_open(1)


def test_there_is_room_again_when_an_item_has_ended() -> None:
    room = OpenItemLimit(1)
    room.opened()
    assert not room.may_open(1)
    room.closed()
    assert room.may_open(1)


def test_who_waited_longest_is_called_back_once() -> None:
    room, called = OpenItemLimit(1), []
    room.opened()
    room.wait(lambda: called.append("a") is None)
    room.wait(lambda: called.append("b") is None)
    room.closed()
    assert called == ["a"]
    room.closed()
    room.closed()
    assert called == ["a", "b"]


def test_room_that_is_of_no_use_to_the_first_goes_to_the_next() -> None:
    """A foreach may have ended since it asked."""
    room, called = OpenItemLimit(1), []
    room.wait(lambda: False)
    room.wait(lambda: called.append("b") is None)
    room.wait(lambda: called.append("c") is None)
    room.closed()
    assert called == ["b"]
