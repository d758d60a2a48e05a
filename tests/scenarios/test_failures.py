"""What real certificate authorities have done wrong, tried on a whole datacenter.

The failures F1 to F28 and where they were seen: the failure catalogue of the reference material.
Where each of those that concern the slice is shown, besides the tests in this file:

F1 F2 F3 F13 F19  test_hostile_requests.py  test_f01_f02_f03_f13_f19_a_hostile_request_gets_...
F5   test_signer_crashes.py   test_f5_f11_a_signer_killed_between_two_steps_costs_time_and_never_...
     test_first_start.py      test_a_worker_killed_at_a_step_of_its_first_start_is_followed_by_...
F6   unit/services/replicator/test_replica.py  test_f6_a_rebuilt_file_equals_the_live_one_byte_...
F9   unit/projections/test_ledger_fold.py  test_f9_a_skipped_message_stops_the_fold
F11  test_signer_crashes.py   test_f11_a_signer_that_wakes_up_after_its_partition_moved_has_its_...
F12  unit/projections/test_verify.py  test_f12_serial
F18  unit/services/pki/test_leaf.py  test_no_leaf_is_valid_when_its_issuer_is_not
F22 F27  unit/events/test_schema.py  test_f22_f27_no_event_has_a_field_that_could_hold_a_secret
F25  test_leaders.py  test_a_root_manager_that_was_stopped_while_another_node_took_over_records_...
     unit/services/test_stamping.py  test_f25_time_never_goes_back_within_one_writer
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.client import Client

from events.authority import CAConfig
from events.base import PARTITIONS
from events.leaves import LeafIssued
from events.subjects import Subjects
from projections import store
from projections.issuance import IssuanceReader
from services.asking import NoAnswerError
from services.clock import Clock, SystemClock
from services.pki import der, pem
from services.refusals import RefusedError
from tests.factories import csr, csr_pem, leaf_key, pem_of, private_pem
from tests.integration.signing import NODE, Datacenter, new_run, request
from tests.nats import NatsServer
from tests.scenarios import leaks, reading
from tests.scenarios.caledger import Caledger
from tests.scenarios.checking import projections_are_those_built_anew

SUBJECTS: Final = Subjects("dc1")
SIGNERS: Final = ("signer-0", "signer-1")


def test_every_test_that_is_named_above_exists() -> None:
    named = re.findall(r"(\S+\.py) +(test_\w+)", __doc__ or "")
    tests = Path(__file__).parents[1]
    missing = [
        (file, name)
        for file, name in named
        if f"def {name.rstrip('_')}"
        not in (tests / ("" if "/" in file else "scenarios") / file).read_text()
    ]

    assert len(named) >= 10
    assert missing == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` for the tests that do not destroy it; none depends on another."""
    async with Caledger(tmp_path_factory.mktemp("failures")) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.xdist_group("failures")
async def test_f05_what_a_client_has_is_on_the_ledger_and_what_is_not_answered_can_be_asked_for(
    dev: Caledger,
) -> None:
    """Goal: nothing is done and not recorded, and no error hides something that was done.

    Method: kill -9 both signers again and again while clients ask, without any retry of their own;
    afterwards every reply is an event, byte for byte and at its place, and every request without a
    reply is looked up: it is there, once, or it was never done and is refused as `not_found`.
    """
    asker = await reading.Asker.of(await dev.client())
    replies: dict[str, dict[str, object]] = {}

    async def ask(name: str) -> None:
        with suppress(NoAnswerError):
            replies[name] = await asker.sign(name, name, timeout=0.2)

    names = [f"f05-{number}" for number in range(300)]
    killing = asyncio.create_task(kill_again_and_again(dev))
    for start in range(0, len(names), 10):
        await asyncio.gather(*map(ask, names[start : start + 10]))
        await asyncio.sleep(0.05)
    killed = await killing
    unanswered = [name for name in names if name not in replies]
    looked_up = {name: await looked_up_later(asker, name) for name in unanswered}
    found = {name: reply for name, reply in looked_up.items() if reply is not None}
    at = {
        each.event.request_id: each
        for each in await reading.recorded(asker.client)
        if isinstance(each.event, LeafIssued)
    }

    print(f"{killed} kills, {len(replies)} replies, {len(unanswered)} none, {len(found)} found")
    assert replies
    for name, reply in {**replies, **found}.items():
        assert reply["EventID"] == at[name].envelope.id
        assert reply["LedgerSequence"] == at[name].sequence
    issued = Counter(leaf.request_id for leaf in await reading.issued(asker.client))
    assert {issued[name] for name in [*replies, *found]} == {1}
    assert not any(issued[name] for name in unanswered if name not in found)


async def looked_up_later(asker: reading.Asker, name: str) -> dict[str, object] | None:
    """Return what a request got, as a look-up tells it; None: nothing."""
    try:
        reply: dict[str, object] = json.loads(
            await asker.client.lookup(name, request_id=name, timeout=30)
        )
    except RefusedError as refused:
        if refused.code != "not_found":
            raise
        return None
    return reply


async def kill_again_and_again(dev: Caledger) -> int:
    for _ in range(3):
        for signer in SIGNERS:
            await asyncio.sleep(0.15)
            killed = dev.kill(signer)
            await dev.restarted(signer, instead_of=killed)
    return 3 * len(SIGNERS)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.xdist_group("failures")
async def test_f09_a_replicator_that_dies_again_and_again_skips_nothing_and_takes_nothing_twice(
    dev: Caledger,
) -> None:
    """Goal: nothing is skipped, doubled or taken out of order by who reads the ledger.

    Method: kill -9 the replicator and stop it for a while as certificates are issued; its rows are
    then those of a file that is built anew from the first entry, byte for byte, and have every
    certificate of the ledger once.
    """
    asker = await reading.Asker.of(await dev.client())
    path = dev.data / "projections.sqlite"
    async with asker.all_the_while("f09"):
        for _ in range(3):
            pid = await dev.restarted("replicator", instead_of=dev.kill("replicator"))
            before = store.read_meta(path).position
            await moves_on(path, before)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.3)  # entries that it will have to catch up with
            os.kill(pid, signal.SIGCONT)
    await moves_on(path, (await reading.stored(asker.client))[-1].sequence - 1)

    await projections_are_those_built_anew(dev, path)
    reader = IssuanceReader(path)
    issued = [leaf for leaf in await reading.issued(asker.client) if leaf.name.startswith("f09-")]
    rows = [reader.by_identity(leaf.identity)[1] for leaf in issued]
    reader.close()
    assert len(issued) > 20
    assert [[row.leaf for row in found] for found in rows] == [[leaf] for leaf in issued]


async def moves_on(path: Path, beyond: int) -> None:
    """Wait until the projections are past a sequence."""
    async with asyncio.timeout(20):
        while store.read_meta(path).position <= beyond:
            await asyncio.sleep(0.02)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.xdist_group("failures")
async def test_f10_no_signer_decides_on_projections_that_are_behind(dev: Caledger) -> None:
    """Goal: a stale copy drives no decision.

    Method: the replicator is stopped before a certificate is issued, and both signers are killed
    after it: their successors know of it only what the file says, which is nothing. Asked for the
    same request id they must wait, and answer with the certificate that there is once the
    replicator goes on.
    """
    asker = await reading.Asker.of(await dev.client())
    names = [f"f10-{number}" for number in range(4)]  # of both signers
    csrs = {name: asker.csr(name) for name in names}
    replicator = dev.kill("replicator", signal.SIGSTOP)
    try:
        first = [await asker.sign(name, name, csr=csrs[name]) for name in names]
        for signer in SIGNERS:
            await dev.restarted(signer, instead_of=dev.kill(signer))
        again = [
            asyncio.create_task(asker.sign(name, name, csr=csrs[name], timeout=60))
            for name in names
        ]
        # Long enough for them to be granted their partitions: silence, or "not ready" in the end.
        with pytest.raises((NoAnswerError, RefusedError)) as told:
            await asker.client.sign(names[0], csrs[names[0]], request_id=names[0], timeout=6)
        assert getattr(told.value, "code", "not_ready") == "not_ready"
        assert not any(task.done() for task in again)
    finally:
        os.kill(replicator, signal.SIGCONT)

    assert await asyncio.gather(*again) == first
    issued = Counter(leaf.name for leaf in await reading.issued(asker.client))
    assert [issued[name] for name in names] == [1] * len(names)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.xdist_group("failures")
async def test_f11_a_request_id_is_bound_to_one_identity_and_one_request(dev: Caledger) -> None:
    """Goal: never two certificates for one request, nor one serial in two.

    Method: 40 at once ask under one id with two requests, while the signers are killed; then the
    same id of another identity. One certificate, and a conflict for whoever asked for another.
    """
    asker = await reading.Asker.of(await dev.client())
    uri = asker.uri("f11")
    csrs = [csr_pem(uri=uri, key=leaf_key("p256", number)).decode() for number in (1, 2)]

    async def ask(body: str) -> str:
        try:
            return str((await asker.sign("f11", "same", csr=body, timeout=60))["SerialNumber"])
        except RefusedError as refused:
            return refused.code

    asking = [asyncio.create_task(ask(body)) for body in csrs * 20]
    await asyncio.sleep(0)
    for signer in SIGNERS:
        await dev.restarted(signer, instead_of=dev.kill(signer))
    answers = Counter(await asyncio.gather(*asking))
    other = await asker.sign("f11-other", "same")

    leaves = await reading.issued(asker.client)
    (leaf,) = [leaf for leaf in leaves if leaf.name == "f11"]
    assert answers == Counter({pem.colon_hex(leaf.serial): 20, "request_id_conflict": 20})
    assert pem.colon_hex(leaf.serial) != other["SerialNumber"]
    assert len({leaf.serial for leaf in leaves}) == len(leaves)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.xdist_group("failures")
async def test_f12_serials_are_random_and_of_128_bits(dev: Caledger) -> None:
    """Goal: nobody can guess a serial, and none comes twice.

    Method: 400 of them. Each has a bit that is always set (so that every serial is as long as every
    other) and 128 below it, each set about as often as not: 200 times, give or take 70, which is 7
    standard deviations. The certificates say what the events say.
    """
    asker = await reading.Asker.of(await dev.client())
    for start in range(0, 400, 50):
        await asyncio.gather(
            *(asker.sign("f12", f"f12-{number}") for number in range(start, start + 50))
        )
    leaves = [leaf for leaf in await reading.issued(asker.client) if leaf.name == "f12"]
    serials = [int(leaf.serial, 16) for leaf in leaves]

    assert len(set(serials)) == len(serials) == 400
    assert {serial.bit_length() for serial in serials} == {129}
    for bit in range(128):
        assert 130 <= sum(serial >> bit & 1 for serial in serials) <= 270, bit
    assert serials != sorted(serials)
    certificates = [x509.load_der_x509_certificate(leaf.certificate) for leaf in leaves]
    assert [each.serial_number for each in certificates] == serials


async def test_f18_no_leaf_outlives_its_issuer(nats_server: NatsServer, tmp_path: Path) -> None:
    """Goal: a leaf ends when its issuer does, at the latest.

    Method: an authority whose intermediate lives for two hours, and leaves of three days; what a
    real signer issues ends with the intermediate, in the certificate, the event and the reply.
    """
    dc = await Datacenter.begin(
        await nats_server.client(),
        tmp_path,
        config=CAConfig(csr_max_per_second=0, intermediate_cert_ttl_seconds=2 * 3600),
    )
    async with dc.replicator(), dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: range(PARTITIONS)})
        reply = (await dc.ask(request())).told
    (leaf,) = await dc.leaves()
    issuer = (await dc.state()).issuer
    assert issuer is not None

    ends = x509.load_der_x509_certificate(issuer.certificate).not_valid_after_utc
    certificate = x509.load_der_x509_certificate(leaf.certificate)
    assert certificate.not_valid_after_utc == leaf.not_after == ends
    assert datetime.fromisoformat(reply["ValidBefore"]) == ends
    assert leaf.not_after - leaf.not_before < timedelta(hours=72)
    assert await dc.faults() == []


@asynccontextmanager
async def signer_with(dc: Datacenter, clock: Clock, nc: Client) -> AsyncIterator[str]:
    """Run a signer in this process that believes this clock; yield its run."""
    index = IssuanceReader(dc.projections)
    signer = dc.new_signer(nc, index, run := new_run(), clock=clock)
    task = asyncio.create_task(signer.run())
    try:
        yield run
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        index.close()


class TurnedBack(SystemClock):
    """A clock that somebody sets, by `ahead`."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


async def test_f25_a_clock_that_is_set_back_neither_reorders_nor_doubles_anything(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Goal: time in events never goes back, and no id or serial comes again.

    Method: a real signer whose clock is set back by an hour, twice, between requests. The times of
    its events do not fall, their ids rise, the same request id still gets the same bytes, and
    certificates never begin before their issuer.
    """
    clock = TurnedBack()
    dc = await Datacenter.begin(await nats_server.client(), tmp_path)
    answers = []
    async with dc.replicator(), signer_with(dc, clock, await nats_server.client()) as run:
        await dc.assign({run: range(PARTITIONS)})
        body = request(request_id="first")
        first = await dc.ask(body)
        for back in (0, 1, 2):
            clock.ahead = timedelta(hours=-back)
            answers += [await dc.ask(request(request_id=f"r{back}-{i}")) for i in range(5)]
        again = await dc.ask(body)
    events = [each for each in await dc.events() if each.envelope.source.endswith(f"signer/{NODE}")]
    leaves = await dc.leaves()
    issuer = (await dc.state()).issuer
    assert issuer is not None

    assert again.body == first.body
    assert [answer.code for answer in answers] == [None] * 15
    assert len(events) == len(leaves) == 16
    assert all(a.envelope.time <= b.envelope.time for a, b in pairwise(events))
    assert all(a.envelope.id < b.envelope.id for a, b in pairwise(events))
    assert len({leaf.serial for leaf in leaves}) == 16
    begins = x509.load_der_x509_certificate(issuer.certificate).not_valid_before_utc
    assert all(leaf.not_before >= begins for leaf in leaves)
    assert min(leaf.not_before for leaf in leaves) == begins  # two hours back it would not be
    assert await dc.faults() == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.xdist_group("failures")
async def test_f22_f27_no_secret_is_in_a_stream_a_file_a_log_or_a_reply(dev: Caledger) -> None:
    """Goal: nothing that reads the ledger, a snapshot, a log or a reply learns a private key.

    Method: every secret of the node, unsealed (the CA's keys, the key-encryption keys, NATS's
    seeds), and private keys that a careless client sends in place of a request, are looked for in
    every message of every stream, in every file that is not there to hold one, in all that was
    logged, and in every reply that a client can get. That such a search finds what is there is
    shown with the public keys, which are in most of these places.
    """
    client = await dev.client()
    asker = await reading.Asker.of(client)
    made = await dev.run("sign", "service", "f22")
    assert made.code == 0, made
    careless = leaf_key("p256", 22)
    assert isinstance(careless, ec.EllipticCurvePrivateKey)
    pem = private_pem(careless)
    replies = [
        await reply(client.nc, "f22", body)
        for body in (
            csr(uri=asker.uri("f22")),
            pem_of(csr(uri=asker.uri("f22"))),
            pem,
            pem + pem_of(csr(uri=asker.uri("f22"))),
            json.dumps({"csr": pem.decode(), "request_id": "f22"}).encode(),
            json.dumps({"request_id": pem.decode()}).encode(),
            json.dumps({"csr": asker.csr("f22"), "key": pem.decode()}).encode(),
            csr(uri=asker.uri("f22"), extensions=[comment(pem)]),
        )
    ]
    replies.append(await client.roots())
    replies += [message.data for message in await reading.stored(client)]
    replies.append((await dev.run("roots", "get", "--json")).out.encode())
    replies.append((await dev.run("ledger", "replay", "--json")).out.encode())
    replies.append((await dev.run("user", "list", "--json")).out.encode())

    secrets, public = await leaks.of_node(dev.data)
    secrets += leaks.private_key("what a client sent", careless)
    own = serialization.load_pem_private_key((dev.folder / "f22/f22-key.pem").read_bytes(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    secrets += leaks.private_key("what a client made", own)
    places = {
        "replies": replies,
        "log": [dev.log.encode(), dev.out.encode()],
        **await leaks.streams(dev.data),
        **{name: [content] for name, content in leaks.files(dev.data).items()},
    }

    print(
        f"{len(secrets)} secrets, {sum(map(len, places.values()))} pieces in {len(places)} places"
    )
    kinds = Counter(secret.what.partition(":")[0] for secret in secrets)
    assert kinds["root key"] == kinds["signing key"] == 3
    assert sum(name.endswith((".kek", ".sealed", ".creds")) for name in kinds) > 10
    assert asker.domain in dev.log
    for key in public:  # the search finds what is there
        canary = [leaks.Secret(what="public", value=key[-64:])]
        for name in ("replies", "CA_LEDGER_dc1", "CA_ROOTS_dc1"):
            assert any(leaks.found(piece, canary) for piece in places[name]), name
    for secret in secrets:
        pem_like = base64.encodebytes(b"-" + secret.value + b"-")
        assert leaks.found(b"before" + pem_like, [secret]) == [secret.what]
    leaked = {
        (name, what)
        for name, pieces in places.items()
        for piece in pieces
        for what in leaks.found(piece, secrets)
    }
    assert leaked == set()


async def reply(nc: Client, service: str, body: bytes) -> bytes:
    """Return an answer as a client sees it, headers included."""
    message = await nc.request(SUBJECTS.sign("service", service), body, timeout=10)
    return json.dumps(message.headers or {}).encode() + message.data


def comment(text: bytes) -> tuple[x509.ExtensionType, bool]:
    """Return an extension that says something (Netscape's comment)."""
    oid = x509.ObjectIdentifier("2.16.840.1.113730.1.13")
    return x509.UnrecognizedExtension(oid, der.tlv(der.OCTET_STRING, text)), False
