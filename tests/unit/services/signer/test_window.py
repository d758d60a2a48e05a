"""So many in a second."""

from __future__ import annotations

from services.signer.window import Window


def test_there_is_room_for_so_many_in_each_second() -> None:
    window = Window(3)

    assert [window.room(now) for now in (5.0, 5.1, 5.2, 5.3, 5.999)] == [True] * 3 + [False] * 2
    assert [window.room(now) for now in (6.0, 6.0, 6.9, 6.9)] == [True] * 3 + [False]


def test_a_clock_that_is_set_back_begins_a_new_second() -> None:
    window = Window(1)

    assert window.room(100.0)
    assert not window.room(100.5)
    assert window.room(40.0)
    assert not window.room(40.5)
