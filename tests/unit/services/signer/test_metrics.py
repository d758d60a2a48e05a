"""What a signer counts: what was given out, once, and nothing that was not."""

from __future__ import annotations

from events.leaves import LeafRefused
from services.clock import SystemEntropy
from services.observed import Observed
from services.refusals import RefusedError
from services.signer.holdings import Holdings
from services.signer.metrics import SignerMetrics
from services.signer.work import Decided, Signed, TurnedDown, Work
from services.stamping import Stamper
from tests.clocks import FixedClock
from tests.factories import NOW
from tests.whole_ledger import EVEN, leaf

STAMPER = Stamper("/caledger/dc1/signer/a", FixedClock(NOW), SystemEntropy())


def work(heard: float) -> Work:
    return Work(
        subject="ca.dc1.work.1.service.web",
        partition=1,
        body=b"",
        requester="UWEB",
        heard=heard,
        replies=["_INBOX.web"],
    )


def signed(heard: float) -> Signed:
    issued = leaf("web", grant=4)
    return Signed(work=work(heard), leaf=issued, event=STAMPER.stamp(issued, subject="web"))


def turned_down(heard: float) -> TurnedDown:
    refusal = LeafRefused(
        request_id="r-1",
        identity=None,
        code="bad_signature",
        message="no",
        signer=EVEN,
        grant_sequence=4,
        requester="UWEB",
        durable=True,
    )
    return TurnedDown(
        work=work(heard),
        refused=RefusedError("bad_signature", "no"),
        refusal=refusal,
        event=STAMPER.stamp(refusal, subject="web"),
    )


def test_what_was_given_out_is_counted_and_what_is_decided_anew_is_not() -> None:
    observed = Observed()
    held = Holdings(partitions=frozenset({1, 2, 3}))
    metrics = SignerMetrics(
        observed,
        holdings=lambda: held,
        holding=lambda: 7,
        durable=lambda: 3,
        authority=lambda: 12,
    )
    value = observed.metrics.registry.get_sample_value
    group: list[Decided] = [signed(10.0), signed(10.5), turned_down(10.5), signed(9.0)]

    metrics.recorded(group, [group[3].work], began=10.9, now=11.0)
    metrics.recorded([signed(10.0)], [], began=11.0, now=11.25)
    metrics.recorded([group[3]], [group[3].work], began=12.0, now=13.0)

    assert value("caledger_signatures_issued_total") == 3
    assert value("caledger_sign_seconds_count") == 3
    assert value("caledger_sign_seconds_sum") == 1.0 + 0.5 + 1.25
    assert value("caledger_sign_seconds_bucket", {"le": "1.0"}) == 2
    assert value("caledger_append_seconds_count") == 2
    assert value("caledger_partitions_held") == 3
    assert value("caledger_requests_waiting_for_projections") == 7
    assert value("caledger_durable_requests_waiting") == 3
    assert value("caledger_authority_position") == 12

    metrics.refused(RefusedError("rate_limited", "later"))
    metrics.refused(RefusedError("rate_limited", "later"))
    metrics.refused(RefusedError("not_found", "no certificate was issued"))
    metrics.refused(RefusedError("pending", "not done"))
    metrics.turned_away()
    metrics.repeated()
    metrics.waited(0.5)

    assert value("caledger_requests_refused_total", {"code": "rate_limited"}) == 2
    assert value("caledger_requests_refused_total", {"code": "not_ready"}) == 1
    for code in ("not_found", "pending"):  # a question was answered: nobody was refused
        assert value("caledger_requests_refused_total", {"code": code}) is None
        assert value("caledger_lookups_unanswered_total", {"code": code}) == 1
    assert value("caledger_requests_repeated_total") == 1
    assert value("caledger_rate_limit_wait_seconds_sum") == 0.5
    assert observed.health.missing() == {"authority": "the ledger was not followed yet"}
    metrics.followed()
    assert observed.health.missing() == {}
