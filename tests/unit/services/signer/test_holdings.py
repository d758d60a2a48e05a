"""What a signer may serve, and what it must know before."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from projections.authority import SignerGrant
from services.signer.holdings import Holdings, changed, known_up_to, standing
from tests.ledger import assignment, ulid

RUN = ulid()


def grant(sequence: int, partitions: Iterable[int], rate: float = 0.0) -> SignerGrant:
    given = replace(assignment(RUN), partitions=tuple(partitions), rate_per_second=rate)
    return SignerGrant(assignment=given, sequence=sequence)


def test_before_its_first_grant_a_signer_serves_nothing() -> None:
    assert standing(Holdings(), 7) == "foreign"
    assert Holdings().grant_sequence == 0


def test_a_gained_partition_is_held_until_all_before_its_grant_is_known() -> None:
    held = changed(Holdings(), grant(10, [7]))

    assert standing(held, 7) == "held"
    assert standing(known_up_to(held, 9), 7) == "held"
    assert standing(known_up_to(held, 10), 7) == "served"
    assert standing(held, 8) == "foreign"


def test_a_partition_that_is_kept_is_served_without_a_wait() -> None:
    served = known_up_to(changed(Holdings(), grant(10, [7])), 10)

    after = changed(served, grant(20, [7, 8], rate=2.5))

    assert standing(after, 7) == "served"
    assert standing(after, 8) == "held"
    assert (after.grant_sequence, after.rate_per_second) == (20, 2.5)


def test_a_partition_that_is_kept_while_held_stays_held_for_its_own_grant() -> None:
    held = changed(changed(Holdings(), grant(10, [7])), grant(20, [7]))

    assert standing(known_up_to(held, 10), 7) == "served"


def test_a_partition_that_was_given_up_is_foreign() -> None:
    served = known_up_to(changed(Holdings(), grant(10, [7, 8])), 10)

    assert standing(changed(served, grant(20, [8])), 7) == "foreign"


def test_a_partition_that_went_away_and_came_back_is_held_again() -> None:
    """Another signer had it in between, and may have committed."""
    served = known_up_to(changed(Holdings(), grant(10, [7, 8])), 10)

    back = changed(changed(served, grant(20, [8])), grant(30, [7, 8]))

    assert standing(back, 7) == "held"
    assert standing(back, 8) == "served"
    assert standing(known_up_to(back, 29), 7) == "held"


def test_a_withdrawn_grant_leaves_nothing() -> None:
    served = known_up_to(changed(Holdings(), grant(10, [7])), 10)

    gone = changed(served, None)

    assert gone == Holdings()
    assert standing(changed(gone, grant(20, [7])), 7) == "held"


def test_an_authority_entry_that_does_not_change_the_grant_changes_nothing() -> None:
    held = changed(Holdings(), grant(10, [7]))

    assert changed(held, grant(10, [7])) is held
    assert known_up_to(held, 3) is held
    nothing = Holdings()
    assert changed(nothing, None) is nothing
