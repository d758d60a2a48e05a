"""A growing set of ids: it says what a set says, and what was stays what it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from projections.id_set import IdSet

ids = st.lists(st.sets(st.sampled_from("abcdefghijklmnop"), max_size=4), max_size=30)


@given(ids, st.sets(st.sampled_from("abcdefghijklmnopqr")))
def test_it_holds_what_was_put_into_it(added: list[set[str]], asked: set[str]) -> None:
    held, expected = IdSet(), set[str]()
    for some in added:
        held = held.with_ids(some)
        expected |= some

    assert held.among(asked) == asked & expected


def test_the_set_before_stays_what_it_was() -> None:
    before = IdSet().with_ids(["a"])
    after = before.with_ids(["b"])

    assert before.among("ab") == {"a"}
    assert after.among("ab") == {"a", "b"}


def test_few_blocks_hold_many_ids() -> None:
    held = IdSet()
    for number in range(10_000):
        held = held.with_ids([str(number)])

    assert len(held.blocks) < 16
