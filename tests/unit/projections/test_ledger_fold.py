"""The fold of the whole ledger: what counts, what is void, what is irregular."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.catalogue import UnknownEventTypeError
from events.envelope import Stored, encode_entry
from events.leadership import LeadershipReleased
from events.log import GapError
from events.signers import GrantGiven, GrantWithdrawn
from projections import authority_fold
from projections.authority import AuthorityState
from projections.ledger_fold import Folded, LedgerFold, read
from tests import factories
from tests.whole_ledger import (
    EVEN,
    ODD,
    SUBJECTS,
    WholeLedger,
    assignment,
    halves,
    key_id,
    leaf,
    refused,
    signer_of,
    small_ledger,
    ulid,
)


def fold(stored: Iterable[Stored]) -> list[Folded]:
    ledger = LedgerFold("dc1")
    return [f for each in stored for f in ledger.fold(read(each, datacenter="dc1"))]


def authority_alone(stored: Iterable[Stored]) -> AuthorityState:
    state = AuthorityState(datacenter="dc1")
    for each in stored:
        if each.subject == SUBJECTS.authority:
            state = authority_fold.fold(state, each)
    return state


def voids(stored: Iterable[Stored]) -> list[tuple[int, str]]:
    return [(f.sequence, f.void.kind) for f in fold(stored) if f.void is not None]


def released() -> LeadershipReleased:
    return LeadershipReleased(node="n1", term=1, reason="lease_lost")


def begun() -> WholeLedger:
    ledger = WholeLedger()
    ledger.begin()
    return ledger


def test_a_ledger_with_nothing_wrong_counts_as_a_whole() -> None:
    folded = fold(small_ledger().stored)

    assert [each.sequence for each in folded] == list(range(1, small_ledger().last + 1))
    assert all(each.entry is not None and not each.irregular for each in folded)
    assert folded[-1].after.signers[EVEN].sequence == 21
    assert ODD not in folded[-1].after.signers


@pytest.mark.parametrize("missing", [1, 3, 6])
def test_f9_a_skipped_message_stops_the_fold(missing: int) -> None:
    stored = small_ledger().stored
    del stored[missing - 1]

    with pytest.raises(GapError, match=f"sequence {missing + 1} comes after {missing - 1}"):
        fold(stored)


def test_f9_a_message_out_of_order_or_twice_stops_the_fold() -> None:
    stored = small_ledger().stored

    with pytest.raises(GapError):
        fold([stored[0], stored[2], stored[1]])
    with pytest.raises(GapError):
        fold([stored[0], stored[0]])


def test_an_unknown_type_stops_the_fold() -> None:
    ledger = begun()
    data = encode_entry([ledger.stamp(refused(EVEN, grant=ledger.grants[EVEN]))])
    ledger.raw(SUBJECTS.leaves(EVEN), data.replace(b".refused.v1", b".refused.v9"))

    with pytest.raises(UnknownEventTypeError):
        fold(ledger.stored)


def test_what_is_no_list_of_events_is_void_and_stops_nothing() -> None:
    ledger = begun()
    ledger.raw(SUBJECTS.leaves(EVEN), b"garbage")
    ledger.raw(SUBJECTS.authority, b"garbage")
    ledger.issue("web")
    ledger.acquire("n2")

    assert voids(ledger.stored) == [(6, "malformed"), (7, "malformed")]
    assert fold(ledger.stored)[-1].after.term == 2


def test_an_entry_on_the_wrong_subject_is_void() -> None:
    ledger = begun()
    data = encode_entry([ledger.stamp(refused(EVEN, grant=ledger.grants[EVEN]))])
    ledger.raw("ca.dc1.ledger.other", data)
    ledger.raw(SUBJECTS.authority, data)
    ledger.acquire("n2")

    assert voids(ledger.stored) == [(6, "subject"), (7, "subject")]


def test_an_authority_entry_that_does_not_expect_the_one_before_it_is_void() -> None:
    ledger = begun()
    ledger.acquire("n2", term=2)
    stale = ledger.decide(released(), term=1, expected=3)
    ledger.acquire("n3", term=3)

    assert voids(ledger.stored) == [(stale, "expected")]


def test_an_entry_that_repeats_an_event_id_is_void() -> None:
    ledger = begun()
    grant = ledger.grants[EVEN]
    ledger.issue("web")
    again = ledger.raw(SUBJECTS.leaves(EVEN), ledger.stored[-1].data)
    of_authority = ledger.leaves(EVEN, ledger.stamp(refused(EVEN, grant=grant), event_id=ulid(1)))
    ledger.acquire("n2")
    authority_again = ledger.decide(ledger.stamp(released(), event_id=ulid(1)), term=2)

    assert voids(ledger.stored) == [
        (again, "event_id"),
        (of_authority, "event_id"),
        (authority_again, "event_id"),
    ]


def test_an_authority_entry_with_a_leafs_id_counts_since_its_readers_cannot_know() -> None:
    ledger = begun()
    ledger.leaves(EVEN, ledger.stamp(refused(EVEN, grant=ledger.grants[EVEN]), event_id=ulid(99)))
    ledger.decide(ledger.stamp(released(), event_id=ulid(99)))

    folded = fold(ledger.stored)

    assert voids(ledger.stored) == []
    assert (folded[-1].repeats, folded[-1].after.leader) == (ulid(99), None)


def test_the_ids_of_a_void_entry_are_not_used_up() -> None:
    ledger = begun()
    ledger.decide(ledger.stamp(released(), event_id=ulid(99)), expected=0)
    ledger.leaves(EVEN, ledger.stamp(refused(EVEN, grant=ledger.grants[EVEN]), event_id=ulid(99)))

    assert voids(ledger.stored) == [(6, "expected")]


OTHER = "01K2000000000000000000THER"


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(
            lambda ledger: ledger.grant(EVEN, GrantGiven(assignment=halves()[0])),
            id="no authority entry is about it",
        ),
        pytest.param(
            lambda ledger: [
                ledger.assign(halves(), grants=False),
                ledger.grant(ODD, GrantGiven(assignment=halves()[1])),
                ledger.grant(ODD, GrantGiven(assignment=halves()[1])),
            ],
            id="another signer's comes here",
        ),
        pytest.param(
            lambda ledger: [
                ledger.assign(halves(), grants=False),
                ledger.grant(EVEN, GrantWithdrawn(signer=EVEN, reason="lost")),
                ledger.grant(ODD, GrantGiven(assignment=halves()[1])),
            ],
            id="withdrawn where given was announced",
        ),
        pytest.param(
            lambda ledger: [
                ledger.assign(halves(), grants=False),
                ledger.grant(EVEN, GrantGiven(assignment=assignment(EVEN, range(64)))),
                ledger.grant(ODD, GrantGiven(assignment=halves()[1])),
            ],
            id="gives more than was announced",
        ),
        pytest.param(
            lambda ledger: [
                ledger.assign([halves()[0]], withdrawn=[ODD], grants=False),
                ledger.grant(EVEN, GrantGiven(assignment=halves()[0])),
                ledger.grant(ODD, GrantWithdrawn(signer=OTHER, reason="lost")),
            ],
            id="withdraws another signer's",
        ),
    ],
)
def test_a_grant_that_is_not_what_its_authority_entry_says_is_void(
    forge: Callable[[WholeLedger], object],
) -> None:
    ledger = begun()
    forge(ledger)

    assert [kind for _, kind in voids(ledger.stored)] == ["grant_message"]


def test_an_atomic_append_counts_once_its_last_message_is_seen() -> None:
    ledger = begun()
    fold = LedgerFold("dc1")
    counts = [len(fold.fold(read(each, datacenter="dc1"))) for each in ledger.stored]

    assert counts == [1, 1, 0, 0, 3]


def test_an_entry_with_a_false_number_of_messages_is_void_and_nothing_waits_for_it() -> None:
    """It would be waited for for ever, by everybody who could append (a bricked authority)."""
    ledger = begun()
    false = ledger.decide(released(), messages=1000)

    assert voids(ledger.stored) == [(false, "atomic")]
    assert authority_alone(ledger.stored).settled == false


def test_grants_that_never_came_are_taken_back_by_the_entry_that_came_instead() -> None:
    ledger = begun()
    ledger.assign(halves(), grants=False)
    torn = authority_alone(ledger.stored)
    came = ledger.grant(EVEN, GrantGiven(assignment=halves()[0]))
    ledger.acquire("n2")

    folded = fold(ledger.stored)

    assert set(torn.signers) == {EVEN, ODD}
    assert {s: g.sequence for s, g in folded[-1].after.signers.items()} == {EVEN: came}
    assert folded[-1].after == authority_alone(ledger.stored)


def test_a_void_entry_inside_an_append_takes_back_its_grants_too() -> None:
    ledger = begun()
    ledger.assign(halves(), grants=False)
    ledger.raw(SUBJECTS.authority, b"garbage")

    assert not authority_alone(ledger.stored).signers


def test_twenty_thousand_authority_entries_take_no_time() -> None:
    """Time grows with their number, not with its square: each fold starts with all of them."""
    ledger = WholeLedger()
    for _ in range(10_000):
        ledger.acquire()
        ledger.raw(SUBJECTS.authority, b"garbage")

    began = time.process_time()
    state = authority_alone(ledger.stored)

    assert (state.position, state.term) == (20_000, 10_000)
    assert time.process_time() - began < 2.0  # 0.3 s; as it was, 4 s and more


def test_a_leaf_that_breaks_a_rule_is_kept_and_marked() -> None:
    ledger = begun()
    web = ledger.grants[EVEN]
    ledger.assign(halves())
    ledger.leaves(
        EVEN,
        leaf("web", grant=web),
        leaf("web", grant=ledger.grants[EVEN]),
        leaf("web", grant=ledger.grants[EVEN], signer=ODD),
        leaf("web", grant=ledger.grants[EVEN], issuer_key_id=key_id(7)),
        leaf("web", grant=ledger.grants[EVEN], name="api"),
        leaf("billing.eu", grant=ledger.grants[EVEN], signer=EVEN),
        leaf("web", grant=ledger.grants[EVEN], name=""),
    )
    ledger.leaves(OTHER, leaf("web", grant=ledger.grants[EVEN], signer=OTHER))

    folded = fold(ledger.stored)

    assert [(i.position, i.kind) for i in folded[-2].irregular] == [
        (0, "grant"),
        (2, "signer"),
        (3, "issuer_key"),
        (4, "name"),
        (5, "partition"),
        (6, "name"),
        (6, "partition"),
    ]
    assert [(i.position, i.kind) for i in folded[-1].irregular] == [(0, "grant")]
    assert all(each.entry is not None for each in folded)


@pytest.mark.parametrize("spelling", ["%77eb", "w%65b", "web/", "web%2F", "WEB", "web?", "%2577eb"])
def test_an_identity_in_another_spelling_than_ours_is_not_the_names(spelling: str) -> None:
    ledger = begun()
    identity = factories.service_uri("web").removesuffix("web") + spelling
    ledger.leaves(EVEN, leaf("web", grant=ledger.grants[EVEN], identity=identity))

    assert [each.kind for each in fold(ledger.stored)[-1].irregular] == ["name"]


@pytest.mark.parametrize("name", ["billing.eu", "a/b", "a b", "ü~", "$&+=:@", "%77eb"])
def test_an_identity_in_our_spelling_is_the_names(name: str) -> None:
    ledger = begun()
    signer = signer_of(name)
    ledger.leaves(signer, leaf(name, grant=ledger.grants[signer]))

    assert fold(ledger.stored)[-1].irregular == ()


def test_f25_a_clock_that_goes_back_changes_nothing_but_the_times_told() -> None:
    ledger = small_ledger()
    rebuilt = small_ledger(tick=timedelta(seconds=-1))

    before, after = fold(ledger.stored)[-1].after, fold(rebuilt.stored)[-1].after

    assert before.led_since != after.led_since
    assert replace(before, led_since=None) == replace(after, led_since=None)
    assert [f.sequence for f in fold(rebuilt.stored)] == list(range(1, rebuilt.last + 1))


class Random:
    """A ledger of whatever a writer might do, right and wrong."""

    STEPS = 12

    def __init__(self) -> None:
        self.ledger = begun()

    def step(self, number: int, place: int) -> None:
        ledger = self.ledger
        match number:
            case 0:
                ledger.acquire("n2")
            case 1:
                ledger.decide(released())
            case 2:
                ledger.decide(released(), expected=max(0, ledger.authority - place))
            case 3:
                ledger.assign(halves())
            case 4:
                ledger.assign(halves(), grants=False)
            case 5:
                ledger.assign([halves()[place % 2]], withdrawn=[(ODD, EVEN)[place % 2]])
            case 6:
                ledger.leaves(EVEN, leaf("web", grant=ledger.grants.get(EVEN, 0)))
            case 7:
                again = ledger.stored[place % ledger.last]
                ledger.raw(again.subject, again.data)
            case 8:
                ledger.raw(
                    (SUBJECTS.authority, SUBJECTS.leaves(EVEN), SUBJECTS.grant(ODD))[place % 3],
                    b"garbage",
                )
            case 9:
                ledger.grant(EVEN, GrantGiven(assignment=halves()[place % 2]))
            case 10:
                ledger.decide(
                    ledger.stamp(released(), event_id=ulid(1 + place)), messages=place + 1
                )
            case 11:
                ledger.assign(halves(), messages=place % 5 + 1)


steps = st.lists(st.tuples(st.integers(0, Random.STEPS - 1), st.integers(0, 9)), max_size=25)


@settings(deadline=None)
@given(steps)
def test_a_reader_of_authority_alone_and_one_of_everything_always_agree(
    taken: list[tuple[int, int]],
) -> None:
    random = Random()
    for number, place in taken:
        random.step(number, place)
    whole = LedgerFold("dc1")
    for stored in random.ledger.stored:
        whole.fold(read(stored, datacenter="dc1"))

    assert whole.authority == authority_alone(random.ledger.stored)


@settings(deadline=None)
@given(steps, st.integers(0, 40))
def test_a_fold_resumed_anywhere_comes_to_the_same(
    taken: list[tuple[int, int]], place: int
) -> None:
    random = Random()
    for number, of in taken:
        random.step(number, of)
    folded = fold(random.ledger.stored)
    if not folded:
        return
    done = folded[: place % len(folded) + 1]
    ids = {e.envelope.id for f in done if f.entry is not None for e in f.entry.events}
    if done[-1].sequence < done[-1].after.settled:
        return  # a file never ends inside an append

    resumed = LedgerFold("dc1", state=done[-1].after, position=done[-1].sequence, known=ids)
    rest = [
        f
        for each in random.ledger.stored[done[-1].sequence :]
        for f in resumed.fold(read(each, datacenter="dc1"))
    ]

    assert [*done, *rest] == folded
