"""What `status.get` says: whether the CA can sign, and if not, why; over real authorities."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import capture_logs

from events.base import PARTITIONS
from projections.faults import Faults, Found
from services.config import ConfigError
from services.leases import LeaderLease, Leases, SignerLease
from services.observed import Observed
from services.root_manager.assignment import SignerRun
from services.root_manager.expiry import ExpiryLog, expiring
from services.root_manager.metrics import AuthorityMetrics, Leading
from services.root_manager.status import Facts, status
from services.status import Status, merged, ranges
from tests.virtual import SUBJECTS, Datacenter, run

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def leases(dc: Datacenter, *signers: SignerRun) -> Leases:
    """What the lease bucket says while these are alive, and the leader is."""
    return Leases(
        leader=LeaderLease(node="a", term=dc.acting.term, holder=f"01K2{0:022d}"),
        signers=tuple(
            SignerLease(signer=each.signer, node="a", slot=each.slot, stopping=each.stopping)
            for each in signers
        ),
    )


def facts(dc: Datacenter, **changes: Any) -> Facts:
    """What the leader knows while all is well, but for the changes."""
    known: dict[str, Any] = {
        "node": "a",
        "now": dc.clock.now(),
        "state": dc.state,
        "leases": leases(dc, *dc.alive),
        "last_sequence": dc.state.settled,
        "durable_requests": 7,
        "projected": dc.state.settled,
        "failures": dc.manager.attempts.failures,
        "faults": Faults(),
    }
    return Facts(**{**known, **changes})


async def test_a_ca_with_a_root_and_living_signers_can_sign(dc: Datacenter) -> None:
    told = status(facts(dc))

    assert (told.can_sign, told.why, told.warnings) == (True, (), ())
    assert told.state == "INITIALIZED"
    assert told.leader is not None
    assert (told.leader.node, told.leader.term) == ("a", 1)
    assert told.leader.since == dc.state.led_since is not None
    assert told.durable_requests_waiting == 7
    assert told.is_leaders
    assert told.active_root is not None
    assert told.active_root == told.roots[0]
    assert told.active_root.state == "active"
    assert told.signing_cert is not None
    assert told.signing_cert.issuer == "intermediate"
    assert told.signing_cert.seconds_left == 365 * 24 * 3600
    assert [(s.partitions, s.ranges, s.alive) for s in told.signers] == [
        (32, "0-31", True),
        (32, "32-63", True),
    ]
    assert told.unassigned_partitions == ""
    assert [(p.node, p.lag) for p in told.projections] == [("a", 0)]
    [datacenter] = told.datacenters
    assert datacenter.role == "primary"
    assert (datacenter.trust_domain or "").endswith(".consul")


async def test_what_is_told_has_names_as_consuls(dc: Datacenter) -> None:
    encoded = msgspec.json.encode(status(facts(dc)))
    told = msgspec.json.decode(encoded)

    assert {"CanSign", "Why", "Leader", "Provider", "ActiveRoot", "SigningCert"} < set(told)
    assert {"Signers", "Projections", "Faults", "Datacenters", "Warnings"} < set(told)
    assert {"RootID", "KeyID", "NotAfter", "SecondsLeft"} < set(told["ActiveRoot"])
    assert {"Signer", "Partitions", "GrantSequence", "RatePerSecond"} < set(told["Signers"][0])
    assert msgspec.json.decode(encoded, type=Status) == status(facts(dc))


async def test_no_signer_at_all_is_why_it_cannot(tmp_path: Path) -> None:
    async with Datacenter.open(tmp_path) as dc:
        await dc.act()

        told = status(facts(dc))

    assert told.why == ("no signer has partitions 0-63: no signer is alive",)
    assert told.unassigned_partitions == "0-63"


async def test_a_signer_that_is_gone_takes_its_partitions_with_it(dc: Datacenter) -> None:
    told = status(facts(dc, leases=leases(dc, run(2))))

    assert told.why == (f"signer {run(1).signer} has partitions 0-31 and is not alive",)
    assert [each.alive for each in told.signers] == [False, True]


async def test_a_signer_that_is_stopping_still_signs(dc: Datacenter) -> None:
    told = status(facts(dc, leases=leases(dc, run(1, stopping=True), run(2))))

    assert told.can_sign
    assert [each.stopping for each in told.signers] == [True, False]


async def test_a_signer_that_holds_nothing_yet_is_told_all_the_same(dc: Datacenter) -> None:
    told = status(facts(dc, leases=leases(dc, run(1), run(2), run(3))))

    assert told.can_sign
    assert [(s.partitions, s.grant_sequence > 0) for s in told.signers] == [
        (32, True),
        (32, True),
        (0, False),
    ]


async def test_before_there_is_a_root_it_says_what_fails(tmp_path: Path) -> None:
    async with Datacenter.open(tmp_path) as dc:
        dc.first_configuration = tmp_path / "missing.json"
        await dc.act()

        told = status(facts(dc))

    assert told.state == "UNINITIALIZED"
    assert told.why[0] == "CA is uninitialized: no root certificate"
    assert told.why[1].startswith("making the first authority fails: ")
    assert "missing.json" in told.why[1]
    [failure] = told.provider.failures
    assert (failure.attempts, failure.next_try) == (1, dc.clock.now() + timedelta(seconds=2))
    assert [warning.kind for warning in told.warnings] == ["provider"]
    assert told.provider.name is None


async def test_a_failure_that_stops_no_signature_is_only_a_warning(dc: Datacenter) -> None:
    async def fails() -> None:
        raise ConfigError("the HSM is on holiday")

    await dc.manager.attempts.attempt("renewing the intermediate", fails)

    told = status(facts(dc))

    assert told.can_sign
    [warning] = told.warnings
    assert "renewing the intermediate fails (1 time): the HSM is on holiday" in warning.message


async def test_an_expired_certificate_is_why_it_cannot(dc: Datacenter) -> None:
    issuer = status(facts(dc)).signing_cert
    root = status(facts(dc)).active_root
    assert issuer is not None
    assert root is not None

    a_second_before = status(facts(dc, now=issuer.not_after - timedelta(seconds=1)))
    then = status(facts(dc, now=issuer.not_after))
    years_later = status(facts(dc, now=root.not_after))

    assert a_second_before.can_sign
    assert [why[:28] for why in then.why] == ["the intermediate has expired"]
    assert [why[:27] for why in years_later.why] == [
        "the active root has expired",
        "the intermediate has expire",
    ]


async def test_where_the_root_signs_leaves_one_certificate_counts(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})

    told = status(facts(dc))

    assert told.signing_cert is not None
    assert told.active_root is not None
    assert told.signing_cert.issuer == "root"
    assert told.signing_cert.not_after == told.active_root.not_after
    later = status(facts(dc, now=told.active_root.not_after - 5 * DAY))
    assert [warning.cert_type for warning in later.warnings] == ["root"]


async def test_a_ledger_that_does_not_answer_is_why_it_cannot(dc: Datacenter) -> None:
    for missing in ({"leases": None}, {"last_sequence": None}):
        told = status(facts(dc, **missing))

        assert told.why == ("the ledger or the leases cannot be read: JetStream does not answer",)


async def test_signers_of_a_node_without_projections_sign_nothing(dc: Datacenter) -> None:
    told = status(facts(dc, projected=0))

    assert told.why == ("node a has no projections yet, which its signers wait for",)
    assert status(facts(dc, projected=0, node="b")).can_sign, "of other nodes it is not known"


async def test_a_lead_that_the_lease_does_not_bear_out_is_none(dc: Datacenter) -> None:
    lost = leases(dc, *dc.alive)
    gone = Leases(leader=None, signers=lost.signers)
    taken = Leases(
        leader=LeaderLease(node="b", term=0, holder=f"01K2{0:022d}"), signers=lost.signers
    )

    new = Leases(leader=LeaderLease(node="a", term=0, holder=f"01K2{0:022d}"), signers=lost.signers)

    for held in (gone, taken, new):
        told = status(facts(dc, leases=held))

        assert told.leader is None
        assert not told.is_leaders
        assert told.can_sign, "signers sign under their grants"
        assert [w.message for w in told.warnings] == [
            "nobody leads: nothing is renewed or assigned"
        ]


async def test_a_rotation_and_a_renewal_on_their_way_are_told(dc: Datacenter) -> None:
    await dc.command(SUBJECTS.rotation_start, WaitSeconds=60)

    told = status(facts(dc))

    assert told.state == "RECONFIGURING"
    assert told.rotation is not None
    assert told.rotation.activate_at == dc.clock.now() + timedelta(seconds=60)
    assert [root.state for root in told.roots] == ["active", "on its way"]

    await dc.after(timedelta(seconds=61))
    told = status(facts(dc))

    assert told.rotation is None
    assert [root.state for root in told.roots] == ["retired", "active"]
    assert told.roots[0].rotated_out_at == dc.clock.now()


async def test_projections_that_are_far_behind_and_faults_are_warned_of(dc: Datacenter) -> None:
    faults = Faults(position=9_000, void=Found(count=2, first=(7, 9)))

    told = status(facts(dc, last_sequence=9_000, projected=7_999, faults=faults))

    assert [warning.kind for warning in told.warnings] == ["projections", "ledger"]
    assert "1001 entries behind" in told.warnings[0].message
    assert "2 void entries on the ledger, the first at sequence 7" in told.warnings[1].message
    assert status(facts(dc, last_sequence=9_000, projected=8_000)).warnings == ()


async def test_the_answers_of_all_nodes_are_the_leaders_with_everybodys_projections(
    dc: Datacenter,
) -> None:
    leaders = status(facts(dc, projected=5))
    follower = status(facts(dc, node="b", projected=3))
    stale = status(facts(dc, node="c", projected=1, leases=None))

    for answers in ((follower, leaders, stale, leaders), (leaders, stale, follower)):
        told = merged(answers)

        assert told.answered_by == "a"
        assert [(each.node, each.position) for each in told.projections] == [
            ("a", 5),
            ("b", 3),
            ("c", 1),
        ]
    assert merged((follower,)).answered_by == "b"


def test_numbers_are_written_in_short() -> None:
    assert ranges([]) == ""
    assert ranges([3, 1, 2, 7, 9, 8, 63]) == "1-3,7-9,63"
    assert ranges(range(PARTITIONS)) == "0-63"


# What expires.


def types(dc: Datacenter, now: datetime, **agent: Any) -> list[tuple[str, str]]:
    return [(each.cert_type, each.level) for each in expiring(dc.state, now, **agent)]


async def test_expiry_is_warned_of_28_days_before_and_an_error_7_days_before(
    dc: Datacenter,
) -> None:
    """Consul, section 8: less than min(28 days, 40 % of the life) remains."""
    root = dc.state.active_root
    assert root is not None
    end = root.published.not_after
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})

    assert types(dc, end - 28 * DAY) == []
    assert types(dc, end - 28 * DAY + HOUR) == [("root", "warning")]
    assert types(dc, end - 7 * DAY) == [("root", "warning")]
    assert types(dc, end - 7 * DAY + HOUR) == [("root", "error")]
    assert types(dc, end + DAY) == [("root", "error")]


async def test_of_a_short_life_40_percent_count(dc: Datacenter) -> None:
    now = dc.clock.now()
    tls = (now, now + 10 * DAY)

    assert types(dc, now + 6 * DAY, agent=tls) == []
    assert types(dc, now + 6 * DAY + HOUR, agent=tls) == [("agent", "warning")]
    assert types(dc, now + 9 * DAY, agent=tls) == [("agent", "warning")]
    assert types(dc, now + 9 * DAY + HOUR, agent=tls) == [("agent", "error")]


async def test_an_intermediate_that_is_renewed_in_time_is_never_warned_of(
    dc: Datacenter,
) -> None:
    await dc.command(
        SUBJECTS.config_set, Config={"IntermediateCertTTL": "24h", "LeafCertTTL": "1h"}
    )
    await dc.command(SUBJECTS.rotation_start)  # so that there is one of that life
    renewed = set()
    for _ in range(60):
        await dc.after(HOUR)
        renewed.add(dc.state.issuer_key_id)
        assert types(dc, dc.clock.now()) == []

    assert len(renewed) >= 4
    assert types(dc, dc.clock.now() + 23 * HOUR) == [("intermediate", "error")]


async def test_the_leader_tells_the_log_at_once_and_every_hour(dc: Datacenter) -> None:
    root = dc.state.active_root
    assert root is not None
    await dc.command(SUBJECTS.config_set, Config={"LeafSigner": "root"})
    dc.clock.forward(root.published.not_after - dc.clock.now() - 10 * DAY)
    log = ExpiryLog(dc.clock)
    told: list[int] = []

    with capture_logs() as lines:
        for term in (1, 1, 1, 2):
            log.tell(term, lambda now: expiring(dc.state, now))
            told.append(len(lines))
            dc.clock.forward(timedelta(minutes=31))

    assert told == [1, 1, 2, 3], "at once, after an hour, and in a new term"
    assert lines[0] == {
        "event": "certificate expiring soon",
        "log_level": "warning",
        "cert_type": "root",
        "days_remaining": 10.0,
        "time_to_expiry": "10 days, 0:00:00",
        "expiration": root.published.not_after.isoformat(),
        "suggested_action": "manually rotate the root certificate",
    }


# The same for Prometheus.


async def test_only_the_leader_tells_what_expires_when(dc: Datacenter) -> None:
    """Section 8: NaN on non-leaders and when leadership ends, so that nothing stale is shown."""
    leading, observed = Leading(), Observed(node="a", clock=dc.clock)
    metrics = AuthorityMetrics(
        observed, state=lambda: dc.state, manager=dc.manager, leading=leading, clock=dc.clock
    )
    metrics.folded()
    value = observed.metrics.registry.get_sample_value
    root, signing = (
        f"caledger_mesh_active_{which}_ca_expiry_seconds" for which in ("root", "signing")
    )

    def nan(name: str) -> bool:
        told = value(name)
        return told is not None and math.isnan(told)

    assert nan(root)
    assert nan(signing)
    assert value("caledger_is_leader") == 0
    leading.seen(1, alive=2)
    assert dc.state.active_root is not None
    left = dc.state.active_root.published.not_after - dc.clock.now()
    assert value(root) == left.total_seconds()
    assert value(signing) == 365 * 24 * 3600
    assert (value("caledger_is_leader"), value("caledger_signers_alive")) == (1, 2)
    assert value("caledger_partitions_unassigned") == 0
    assert value("caledger_ca_state", {"state": "INITIALIZED"}) == 1
    assert value("caledger_ca_state", {"state": "RECONFIGURING"}) == 0
    leading.ended()
    assert nan(root)
    assert nan(signing)

    assert value("caledger_rotations_total") == 0
    await dc.command(SUBJECTS.rotation_start)
    metrics.folded()
    metrics.folded()
    assert value("caledger_rotations_total") == 1
    assert observed.health.missing() == {"keys": "the CA's keys were not checked yet"}
