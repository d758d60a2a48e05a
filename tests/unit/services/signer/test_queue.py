"""Requests wait behind their own asker's, in a bounded room."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.signer.queue import BYTES_MAX, ITEMS_MAX, SHARE, FairQueue


@dataclass(eq=False)
class Piece:
    number: int
    requester: str | None = "shop"
    size: int = 1_000


def numbers(pieces: list[Piece]) -> list[int]:
    return [piece.number for piece in pieces]


def test_one_asker_has_a_share_and_the_rest_is_the_others() -> None:
    queue = FairQueue[Piece]()

    shop = [queue.put(Piece(number)) for number in range(ITEMS_MAX)]
    others = [queue.put(Piece(0, f"user-{number}")) for number in range(ITEMS_MAX)]

    assert shop.count(True) == ITEMS_MAX // SHARE
    assert others.count(True) == ITEMS_MAX - ITEMS_MAX // SHARE
    assert len(queue) == ITEMS_MAX


def test_the_room_is_bounded_in_bytes_too() -> None:
    queue = FairQueue[Piece]()
    large = BYTES_MAX // SHARE

    assert [queue.put(Piece(0, "shop", large)) for _ in range(2)] == [True, False]
    assert [queue.put(Piece(0, name, large)) for name in "abcd"] == [True] * (SHARE - 1) + [False]


def test_who_asks_once_does_not_wait_for_all_of_who_floods() -> None:
    queue = FairQueue[Piece]()
    for number in range(100):
        queue.put(Piece(number))
    queue.put(Piece(100, "bank"))

    assert numbers(queue.take(4)) == [0, 100, 1, 2]


def test_what_is_put_back_is_first_in_its_order_room_or_not() -> None:
    queue = FairQueue[Piece]()
    while queue.put(Piece(7)):
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
            if queue.put(piece):
                inside.append(piece)
    out += queue.take(len(queue))

    for asker in (None, "a", "b"):
        mine = [piece for piece in out if piece.requester == asker]
        assert mine == [piece for piece in inside if piece.requester == asker]
    assert len(queue) == 0
    assert queue.put(Piece(0, "a", BYTES_MAX // SHARE - 1))
