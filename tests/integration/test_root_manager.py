"""The CA manager on a real server: it makes one authority, and acts only while its node leads."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nats.errors import NoRespondersError
from structlog.testing import capture_logs

from events.authority import (
    CAConfigured,
    IntermediateInstalled,
    KeyCreated,
    KeyPurpose,
    RootActivated,
    RootPublished,
)
from events.envelope import NewEvent
from events.ledger import JetStreamLedger
from events.log import Appended, ConflictError, Grant
from events.signers import GrantGiven, GrantWithdrawn, SignersAssigned
from projections.authority import AuthorityState
from services import streams
from services.buckets import bucket
from services.keys.buckets import root_keys, signing_keys
from services.keys.interface import KeySpec, WrongKeyEncryptionKeyError
from services.keys.kek import KeyEncryptionKeyError
from services.keys.sealed import SealedKeyStore
from services.leases import Leases, SignerLease
from services.pki import certificates
from services.root_manager.assignment import SignerRun
from services.root_manager.commands import AssignSigners
from services.root_manager.decide import decide
from services.root_manager.worker import RootManager
from services.startup import Worker
from tests.integration.leading import (
    KEKS,
    SUBJECTS,
    LateClock,
    Site,
    ended,
    partitions,
    running,
)

AUTHORITY = [
    CAConfigured,
    KeyCreated,
    RootPublished,
    RootActivated,
    KeyCreated,
    IntermediateInstalled,
]
NOBODY = Leases()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Site.open(tmp_path) as opened:
        yield opened


def made(state: AuthorityState) -> bool:
    return state.configuration is not None


async def roots(site: Site) -> Any:
    """Ask as a client does, as soon as somebody is there to answer."""
    async with asyncio.timeout(10):
        while True:
            try:
                reply = await site.nc.request(SUBJECTS.roots_get, b"", timeout=5)
            except NoRespondersError:
                await asyncio.sleep(0.01)
            else:
                return json.loads(reply.data)


async def published(site: Site) -> list[dict[str, Any]]:
    """Return everything in the root-change stream."""
    stored = await messages(site, SUBJECTS.roots_stream)
    return [json.loads(base64.b64decode(message["data"])) for message in stored]


async def messages(site: Site, stream: str) -> list[dict[str, Any]]:
    info = json.loads((await site.nc.request(f"$JS.API.STREAM.INFO.{stream}", timeout=5)).data)
    found = []
    for sequence in range(1, info["state"]["last_seq"] + 1):
        asked = json.dumps({"seq": sequence}).encode()
        reply = await site.nc.request(f"$JS.API.STREAM.MSG.GET.{stream}", asked, timeout=5)
        message = json.loads(reply.data).get("message")
        if message is not None:
            found.append(message)
    return found


async def until_published(site: Site, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while len(found := await published(site)) < count:
            await asyncio.sleep(0.01)
    return found


# Making an authority.


async def test_an_empty_ledger_becomes_an_authority_in_one_entry(site: Site) -> None:
    await site.lead("a")

    async with running(await site.root_manager("a")):
        state = await site.until(made)
        (stored,) = await until_published(site, 1)
        told = await roots(site)

    (entry,) = [e for e in await site.entries() if isinstance(e.events[0].event, CAConfigured)]
    assert [type(recorded.event) for recorded in entry.events] == AUTHORITY
    assert entry.events[0].envelope.source == "/caledger/dc1/root-manager/a"
    assert told == stored
    assert told["LedgerSequence"] == entry.sequence
    assert state.configuration is not None
    assert told["TrustDomain"] == state.configuration.trust_domain
    (root,) = told["Roots"]
    assert (root["Active"], root["Name"]) == (True, "Consul CA Primary Cert")
    assert told["ActiveRootID"] == root["ID"]


async def test_two_root_managers_at_once_on_an_empty_ledger_make_one_root(site: Site) -> None:
    """Both of the node that leads: the ledger's condition alone keeps them apart."""
    await site.lead("a")

    async with running(*[await site.root_manager("a") for _ in range(2)]):
        await site.until(made)
        await until_published(site, 1)
        await asyncio.sleep(0.5)  # in which the other one could make another

    assert [type(event) for event in await site.events()].count(RootPublished) == 1
    assert len(await published(site)) == 1


async def test_before_there_is_an_authority_the_roots_are_not_ready(site: Site) -> None:
    async with running(await site.root_manager("a")):
        told = await roots(site)
        reply = await site.nc.request(SUBJECTS.roots_get, b"", timeout=5)

    assert told["error"]["code"] == "not_ready"
    assert reply.headers is not None
    assert reply.headers["Nats-Service-Error-Code"] == "not_ready"


async def test_a_root_manager_answers_also_while_its_node_does_not_lead(site: Site) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await until_published(site, 1)
        told = await roots(site)

    async with running(await site.root_manager("b")):
        assert await roots(site) == told


async def test_an_answer_goes_only_where_askers_listen(site: Site) -> None:
    """NATS lets anybody name any subject as reply, one of the ledger's too."""
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await site.until(lambda state: len(state.crls) == 2)  # it has nothing left to append
        await roots(site)
        before = await site.ledger.last_sequence()

        for target in (SUBJECTS.authority, SUBJECTS.leaves("x"), SUBJECTS.roots_log):
            await site.nc.publish(SUBJECTS.roots_get, b"", reply=target)
        await roots(site)  # answered after them

        assert await site.ledger.last_sequence() == before
        assert len(await published(site)) == 1


# Acting only as the leader.


class Overtaken(JetStreamLedger):
    """The ledger, on which another node always takes the lead just before an append."""

    site: Site

    async def append_authority(
        self,
        events: Sequence[NewEvent],
        *,
        term: int,
        expected_sequence: int,
        grants: Sequence[Grant] = (),
    ) -> Appended:
        await self.site.acquired("b", term=(await self.site.state()).term + 1)
        return await super().append_authority(
            events, term=term, expected_sequence=expected_sequence, grants=grants
        )


async def test_a_deposed_root_manager_cannot_append_at_its_first_try(site: Site) -> None:
    """It has folded and decided; it was stopped before it appended."""
    acting = await site.lead("a")
    async with running(await site.root_manager("a")):
        folded = await site.until(made)
    alive = AssignSigners(alive=(_run(),))
    assert decide(folded, acting, alive).events
    ledger = Overtaken(site.nc, SUBJECTS)
    ledger.site = site
    deposed = RootManager(
        Worker(nc=site.nc, subjects=SUBJECTS, ledger=ledger, config=site.config("a"))
    )

    assert not await deposed.tools.carry_out(acting, alive)

    assert SignersAssigned not in [type(event) for event in await site.events()]


async def test_a_deposed_root_manager_cannot_append_after_folding_again(site: Site) -> None:
    acting = await site.lead("a")
    deposed = await site.root_manager("a")
    async with running(deposed):
        folded = await site.until(made)
    await site.lead("b")
    alive = AssignSigners(alive=(_run(),))

    # The condition refuses what was decided before; only `decide` refuses what comes after.
    with pytest.raises(ConflictError):
        await site.ledger.append_authority(
            [
                site.stamper.stamp(event, subject="dc1")
                for event in decide(folded, acting, alive).events
            ],
            term=acting.term,
            expected_sequence=folded.position,
            grants=[
                Grant(signer=_run().signer, event=site.stamper.stamp(event, subject="x"))
                for event in decide(folded, acting, alive).grants
            ],
        )
    assert not await deposed.tools.carry_out(acting, alive)
    await deposed.act(acting, NOBODY)

    assert SignersAssigned not in [type(event) for event in await site.events()]


async def test_nothing_is_made_for_a_node_that_the_ledger_does_not_say_leads(site: Site) -> None:
    acting = await site.lead("a")
    await site.acquired("b", term=2)  # the lease still says `a`

    await (await site.root_manager("a")).act(acting, NOBODY)

    assert not made(await site.state())
    assert await root_keys(site.nc, SUBJECTS, site.config("a").keys).stored() == []


def _run() -> SignerRun:
    return SignerRun(signer="01K2J3M4N5P6Q7R8S9T0V1W2X3", node="a", slot=0)


# Signers that come and go.


def have(number: int) -> Callable[[AuthorityState], bool]:
    return lambda state: len(state.signers) == number


async def test_a_key_that_is_no_lease_is_told_of_once(site: Site) -> None:
    await site.lead("a")
    leases = bucket(site.nc, SUBJECTS.lease_bucket)
    await leases.write("junk.1", b"junk", expected=0)
    with capture_logs() as told:
        async with running(await site.root_manager("a")):
            for slot in range(3):  # each is seen in another look at the leases than the one before
                await site.signer("a", slot)
                await site.until(have(slot + 1))
            await leases.write("junk.2", b"junk", expected=0)
            await site.signer("a", 3)
            await site.until(have(4))

    warned = [line["keys"] for line in told if line["event"] == "leases that are none of ours"]
    assert warned == [["junk.1"], ["junk.2"]]


async def test_signers_that_come_and_go_are_given_partitions_within_a_moment(site: Site) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await site.until(made)
        first = await site.signer("a", 0)
        state = await site.until(lambda state: len(state.signers) == 1)
        assert list(partitions(state).values()) == [tuple(range(64))]

        began = time.monotonic()
        second = await site.signer("a", 1, ttl_seconds=1)
        state = await site.until(lambda state: len(state.signers) == 2)
        waited = time.monotonic() - began
        assert sorted(len(each) for each in partitions(state).values()) == [32, 32]
        assert waited < 0.6

        await site.until(lambda state: len(state.signers) == 1)  # its lease ended
        assert isinstance(first.value, SignerLease)
        await first.put(_stopping(first.value))
        await site.until(lambda state: len(state.signers) == 0)

    assert isinstance(second.value, SignerLease)
    withdrawn = [event for event in await site.events() if isinstance(event, GrantWithdrawn)]
    assert [(event.signer, event.reason) for event in withdrawn] == [
        (second.value.signer, "lost"),
        (first.value.signer, "stopped"),
    ]


async def test_a_restarted_signer_takes_over_before_its_predecessors_lease_ends(
    site: Site,
) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await site.until(made)
        await site.signer("a", 0)
        await site.until(lambda state: len(state.signers) == 1)

        successor = (await site.signer("a", 0)).value
        assert isinstance(successor, SignerLease)
        state = await site.until(lambda state: successor.signer in state.signers)

    assert partitions(state) == {successor.signer: tuple(range(64))}


async def test_grants_stand_where_the_entry_says(site: Site) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await site.until(made)
        for slot in range(3):
            await site.signer("a", slot)
        state = await site.until(lambda state: len(state.signers) == 3)

    entries = {entry.sequence: entry for entry in await site.entries()}
    for signer, grant in state.signers.items():
        (recorded,) = entries[grant.sequence].events
        assert recorded.event == GrantGiven(assignment=grant.assignment)
        assert entries[grant.sequence].subject.signer == signer


def _stopping(lease: SignerLease) -> SignerLease:
    return SignerLease(signer=lease.signer, node=lease.node, slot=lease.slot, stopping=True)


# What a crash leaves behind.


@pytest.mark.parametrize("step", ["keys_created", "decided", "appended", "roots_published"])
async def test_f5_killed_between_two_steps_the_next_start_finishes(site: Site, step: str) -> None:
    await site.lead("a")
    killed = site.start("root-manager", "a", stop_at=f"root_manager.{step}=KILL")
    await ended(killed, by=signal.SIGKILL)

    async with running(await site.root_manager("a")):
        state = await site.until(made)
        (stored,) = await until_published(site, 1)
        assert await roots(site) == stored

    kinds = [type(event) for event in await site.events()]
    assert [kinds.count(kind) for kind in (CAConfigured, RootPublished)] == [1, 1]
    assert stored["LedgerSequence"] == state.bundle_sequence
    await _signs(site, state)


async def _signs(site: Site, state: AuthorityState) -> None:
    """See that the keys of what was recorded are there."""
    assert state.active_root is not None
    assert state.issuer is not None
    issued = (state.active_root.published.certificate, state.issuer.certificate)
    for (store, _), certificate in zip(_stores(site), issued, strict=True):
        public = certificates.public_key_of(certificate)
        signature = await store.sign(certificates.key_id(public), b"x")
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signature, b"x", ec.ECDSA(hashes.SHA256()))


async def test_keys_that_were_never_recorded_are_destroyed_when_they_are_old(site: Site) -> None:
    await site.lead("a")
    left = await _leave_keys(site)
    async with running(await site.root_manager("a")):
        state = await site.until(made)
        await until_published(site, 1)
    assert left < await _stored(site), "young ones may still be recorded"

    async with running(await site.root_manager("a", clock=LateClock(timedelta(hours=2)))):
        async with asyncio.timeout(10):
            while await _stored(site) & left:
                await asyncio.sleep(0.05)

    assert await _stored(site) == set(state.keys)
    await _signs(site, state)


def _stores(site: Site) -> list[tuple[SealedKeyStore, KeyPurpose]]:
    keys = site.config("a").keys
    return [
        (root_keys(site.nc, SUBJECTS, keys), "root"),
        (signing_keys(site.nc, SUBJECTS, keys), "signing"),
    ]


async def _leave_keys(site: Site) -> set[str]:
    for store, purpose in _stores(site):
        await store.create(KeySpec(key_type="ec", bits=256, purpose=purpose))
    return await _stored(site)


async def _stored(site: Site) -> set[str]:
    return {key.key_id for store, _ in _stores(site) for key in await store.stored()}


async def test_the_root_change_stream_is_rewritten_where_it_lags_or_was_tampered_with(
    site: Site,
) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await site.until(made)
        (right,) = await until_published(site, 1)
    await site.nc.request(SUBJECTS.roots_log, b'{"LedgerSequence": 1}', timeout=5)

    async with running(await site.root_manager("a")):
        found = await until_published(site, 3)

    assert found == [right, {"LedgerSequence": 1}, right]


# Keys.


@pytest.mark.parametrize("wrong", ["root", "signing"])
async def test_a_wrong_key_encryption_key_is_said_at_the_start_and_changes_nothing(
    site: Site, wrong: str, tmp_path: Path
) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        await site.until(made)
        await until_published(site, 1)
    before = await _everything(site)
    other = tmp_path / "other.kek"
    other.write_text("00" * 32)
    other.chmod(0o600)
    named = {name: f"file:{site.folder / f'{name}.kek'}" for name in KEKS} | {
        wrong: f"file:{other}"
    }
    worker = await site.root_manager("a", root=named["root"], signing=named["signing"])

    with pytest.raises(WrongKeyEncryptionKeyError, match=f"{wrong} keys"):
        await worker.run(asyncio.Event())

    assert await _everything(site) == before


async def test_without_its_key_encryption_key_a_root_manager_does_not_start(site: Site) -> None:
    with pytest.raises(KeyEncryptionKeyError, match="No such file"):
        await site.root_manager("a", root=f"file:{site.folder / 'missing'}")


async def test_f27_no_private_key_and_no_sealing_key_is_in_any_stream(site: Site) -> None:
    await site.lead("a")
    async with running(await site.root_manager("a")):
        state = await site.until(made)
        await site.signer("a", 0)
        await site.until(lambda state: len(state.signers) == 1)
        await until_published(site, 1)
    secrets = [bytes.fromhex(text) for text in KEKS.values()]
    for store, purpose in _stores(site):
        (key_id,) = [key.key_id for key in state.keys.values() if key.purpose == purpose]
        private = await store._unseal(key_id)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        secrets.append(private.private_numbers().private_value.to_bytes(32, "big"))
        secrets.append(
            private.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    haystack = await _everything(site)
    assert len(haystack) > 6

    # A canary first: what is written there in the clear is found.
    leaked = json.dumps({"key": base64.b64encode(b"x" + secrets[2]).decode()}).encode()
    canary = await bucket(site.nc, SUBJECTS.lease_bucket).write("canary", leaked, expected=0)
    assert _found(await _everything(site), secrets) == [("KV_CA_LEASES_dc1", canary)]
    assert _found(haystack, secrets) == []


def _found(
    haystack: dict[tuple[str, int], bytes], secrets: Sequence[bytes]
) -> list[tuple[str, int]]:
    return [
        place
        for place, data in haystack.items()
        if any(form in data for secret in secrets for form in _forms(secret))
    ]


def _forms(secret: bytes) -> list[bytes]:
    """Return a secret as it may stand in a message: bytes, hex, base64 wherever it begins."""
    aligned = [
        base64.b64encode(b"\0" * shift + secret)[4 if shift else 0 : -4] for shift in range(3)
    ]
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), *aligned]


async def _everything(site: Site) -> dict[tuple[str, int], bytes]:
    """Return every message of every stream, headers included."""
    return {
        (each["name"], message["seq"]): base64.b64decode(message.get("hdrs", ""))
        + base64.b64decode(message.get("data", ""))
        for each in streams.stream_settings(SUBJECTS, replicas=1)
        for message in await messages(site, each["name"])
    }
