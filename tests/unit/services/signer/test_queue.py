"""Requests wait behind their own asker's, in a bounded room."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.signer.queue import BYTES_MAX, ITEMS_MAX, FairQueue


@dataclass(eq=False)
class Piece:
    number: int
    requester: str | None = "shop"
    size: int = 1_000


def numbers(pieces: list[Piece]) -> list[int]:
    return [piece.number for piece in pieces]


def test_one_alone_has_all_of_the_room_and_loses_it_to_others() -> None:
    queue = FairQueue[Piece]()

    own = [queue.put(Piece(number)) for number in range(ITEMS_MAX + 1)]
    others = [queue.put(Piece(-number, f"user-{number}")) for number in range(1, 4)]

    assert [numbers(dropped) for dropped in own] == [[]] * ITEMS_MAX + [[ITEMS_MAX]]
    assert [numbers(dropped) for dropped in others] == [[ITEMS_MAX - n] for n in (1, 2, 3)]
    assert len(queue) == ITEMS_MAX


def test_the_room_is_bounded_in_bytes_too() -> None:
    queue = FairQueue[Piece]()
    large = BYTES_MAX // 3

    assert [numbers(queue.put(Piece(n, "shop", large))) for n in (1, 2, 3, 4)] == [[], [], [], [4]]
    assert numbers(queue.put(Piece(5, "bank", large))) == [3]
    assert numbers(queue.put(Piece(6, "bank", 2 * large))) == [6]


def test_who_asks_once_does_not_wait_for_all_of_who_floods() -> None:
    queue = FairQueue[Piece]()
    for number in range(100):
        queue.put(Piece(number))
    queue.put(Piece(100, "bank"))

    assert numbers(queue.take(4)) == [0, 100, 1, 2]


def test_what_is_put_back_is_first_in_its_order_room_or_not() -> None:
    queue = FairQueue[Piece]()
    while not queue.put(Piece(7)):
        pass
    queue.put_first([Piece(1), Piece(2)])

    assert numbers(queue.take(3)) == [1, 2, 7]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([None, "a", "b"]), st.integers(0, BYTES_MAX // 3)),
            st.integers(0, 5),
        )
    )
)
def test_what_went_in_comes_out_once_each_askers_in_order(
    steps: list[tuple[str | None, int] | int],
) -> None:
    queue = FairQueue[Piece]()
    inside: list[Piece] = []
    out: list[Piece] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            out += queue.take(step)
        else:
            piece = Piece(number, *step)
            inside.append(piece)
            for dropped in queue.put(piece):
                inside.remove(dropped)
    out += queue.take(len(queue))

    for asker in (None, "a", "b"):
        mine = [piece for piece in out if piece.requester == asker]
        assert mine == [piece for piece in inside if piece.requester == asker]
    assert len(queue) == 0
    assert not queue.put(Piece(0, "a", BYTES_MAX))
