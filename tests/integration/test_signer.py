"""The signer on a real server: what comes back, and what the ledger says of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events.authority import AllowedNames, CAConfig, SanPolicy
from events.base import KeyType
from events.envelope import NewEvent
from events.leaves import LeafRefusalsCounted, LeafRefused
from events.ledger import JetStreamLedger
from events.log import Appended
from projections import disk
from projections.issuance import IssuanceReader
from services.clock import SystemClock
from services.pki import pem
from services.signer.decider import TURNED_AWAY_TOLD_PER_SECOND
from services.signer.held import HELD_MAX
from services.signer.queue import ITEMS_MAX
from services.signer.refused import RECORDED_PER_SECOND, Refusal
from tests.factories import TRUST_DOMAIN, WEB, csr, csr_pem, leaf_key, service_uri
from tests.integration.signing import ALL, Answer, Datacenter, partition, request, until
from tests.nats import NatsServer
from tests.verifiers import assert_all_accept, chain_of


@pytest.fixture
async def dc(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Datacenter]:
    """A datacenter with a replicator and no signer."""
    datacenter = await Datacenter.begin(await nats_server.client(), tmp_path)
    async with datacenter.replicator():
        yield datacenter


@pytest.fixture
async def served(dc: Datacenter, nats_server: NatsServer) -> AsyncIterator[Datacenter]:
    """A datacenter with one signer for everything."""
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        assert (await dc.ask(b'{"request_id": "ready"}')).code == "not_found"
        yield dc


async def all_stored(dc: Datacenter) -> None:
    """Return once the projections hold everything, so that nothing needs a signer's memory."""
    last = await dc.ledger.last_sequence()
    reader = IssuanceReader(dc.projections)

    async def reached() -> bool:
        return reader.position() >= last

    await until(reached)
    reader.close()


async def ask_once(nc: Client, subject: str, body: bytes) -> Answer:
    """Ask once, and wait."""
    return Answer(await nc.request(subject, body, timeout=10))


# --- issuing


async def test_a_request_gets_a_certificate_whose_event_is_on_the_ledger(
    served: Datacenter,
) -> None:
    answer = await served.ask(request(request_id="r1"))

    [recorded] = [e for e in await served.events() if e.envelope.type == "caledger.leaf.issued.v1"]
    [leaf] = await served.leaves()
    state = await served.state()
    assert state.issuer is not None
    chain = x509.load_pem_x509_certificates(answer.told["CertPEM"].encode())
    assert [c.public_bytes(Encoding.DER) for c in chain] == [leaf.certificate, *state.issuer.chain]
    chain[0].verify_directly_issued_by(chain[1])
    assert answer.told["LedgerSequence"] == recorded.sequence
    assert answer.told["CreateIndex"] == answer.told["ModifyIndex"] == recorded.sequence
    assert answer.told["EventID"] == recorded.envelope.id
    assert answer.serial == f"{chain[0].serial_number:x}"
    assert (answer.told["Service"], answer.told["ServiceURI"]) == ("web", service_uri("web"))
    assert (leaf.request_id, leaf.identity, leaf.name) == ("r1", WEB, "web")
    assert recorded.envelope.subject == WEB
    assert await served.faults() == []


@pytest.mark.parametrize("body", [csr_pem(), csr(), request()], ids=["PEM", "DER", "JSON"])
async def test_every_way_to_send_a_csr_is_answered(served: Datacenter, body: bytes) -> None:
    assert (await served.ask(body)).code is None


async def test_without_an_id_every_request_is_a_new_certificate(served: Datacenter) -> None:
    body = csr_pem()

    first, second = await served.ask(body), await served.ask(body)

    assert first.told["SerialNumber"] != second.told["SerialNumber"]


async def test_who_asked_is_recorded_as_the_server_says(served: Datacenter) -> None:
    headers = {"Nats-Request-Info": json.dumps({"user": "UABC", "acc": "A1"})}
    await served.nc.request(served.subjects.sign("service", "web"), csr_pem(), headers=headers)

    [leaf] = await served.leaves()
    assert leaf.requester == "UABC"


async def test_many_at_once_share_entries(served: Datacenter) -> None:
    """Group commit (architecture 3.3)."""
    names = [f"service-{number}" for number in range(300)]
    bodies = [request(name, request_id="r1") for name in names]
    await served.ask(request())  # it serves

    answers = await asyncio.gather(
        *(served.ask(body, name=name) for name, body in zip(names, bodies, strict=True))
    )

    assert [answer.code for answer in answers] == [None] * 300
    assert len({answer.told["LedgerSequence"] for answer in answers}) < 100
    assert len(await served.leaves()) == 301
    assert await served.faults() == []


# --- request ids


async def test_the_same_request_id_gets_the_same_bytes_for_ever(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    """From the signer's memory, from the index, and from another signer (failure F11)."""
    body = request(request_id="r1")
    async with dc.signer(await nats_server.client()) as first:
        await dc.assign({first.run: ALL})
        answers = [await dc.ask(body)]
        answers.append(await dc.ask(body))
        await all_stored(dc)
        answers.append(await dc.ask(body))
        async with dc.signer(await nats_server.client()) as second:
            await dc.assign({second.run: ALL})
            answers.append(await dc.ask(body))
            answers.append(await dc.ask(b'{"request_id": "r1"}'))

    assert {answer.body for answer in answers} == {answers[0].body}
    assert answers[0].code is None
    assert len(await dc.leaves()) == 1


async def test_the_same_request_id_twice_at_once_is_one_certificate(served: Datacenter) -> None:
    body = request(request_id="r1")

    answers = await asyncio.gather(*(served.ask(body) for _ in range(20)))

    assert {answer.body for answer in answers} == {answers[0].body}
    assert len(await served.leaves()) == 1


async def test_a_known_request_id_with_another_csr_is_a_conflict(served: Datacenter) -> None:
    await served.ask(request(request_id="r1"))

    conflict = await served.ask(request(request_id="r1", csr=csr_pem(key=leaf_key(number=1))))

    assert conflict.code == "request_id_conflict"
    assert len(await served.leaves()) == 1


async def test_two_csrs_at_once_under_one_request_id_get_one_certificate(
    served: Datacenter,
) -> None:
    bodies = [request(request_id="r1", csr=csr_pem(key=leaf_key(number=n))) for n in range(4)]

    answers = await asyncio.gather(*(served.ask(body) for body in bodies))

    assert Counter(answer.code for answer in answers) == {None: 1, "request_id_conflict": 3}
    assert len(await served.leaves()) == 1


async def test_a_request_id_belongs_to_its_identity(served: Datacenter) -> None:
    web = await served.ask(request("web", request_id="r1"))
    api = await served.ask(request("api", request_id="r1"), name="api")

    assert (web.told["Service"], api.told["Service"]) == ("web", "api")


async def test_a_look_up_of_an_unknown_id_is_not_found_and_no_refusal(served: Datacenter) -> None:
    answer = await served.ask(b'{"request_id": "r1"}')
    await served.ask(request())

    assert answer.code == "not_found"
    assert await served.refusals() == []


# --- what is refused


def san(*names: x509.GeneralName) -> bytes:
    return csr(names=names)


URI = x509.UniformResourceIdentifier(WEB)


def bad_signature() -> bytes:
    der = bytearray(csr())
    der[-1] ^= 1
    return bytes(der)


HOSTILE = {
    "garbage": (b"garbage", "malformed"),
    "nothing": (b"", "malformed"),
    "an array": (b"[" * 50_000, "malformed"),
    "an unknown field": (b'{"request_id": "r1", "ttl": 1}', "malformed"),
    "a body of 1 MB": (b"x" * 1_000_000, "too_large"),
    "two URIs": (san(URI, x509.UniformResourceIdentifier(service_uri("db"))), "uri_count"),
    "no URI": (san(), "uri_count"),
    "an e-mail address": (san(URI, x509.RFC822Name("a@b.c")), "email_san"),
    "a DNS name": (san(URI, x509.DNSName("web.example")), "san_not_allowed"),
    "a foreign trust domain": (
        csr(uri=service_uri("web", trust_domain="other.consul")),
        "wrong_trust_domain",
    ),
    "a foreign datacenter": (csr(uri=service_uri("web", dc="dc2")), "wrong_datacenter"),
    "another name than the subject's": (csr(uri=service_uri("db")), "identity_mismatch"),
    "a bad signature": (bad_signature(), "bad_signature"),
    "RSA-1024": (csr(key=leaf_key("rsa1024")), "key_not_allowed"),
    "P-224": (csr(key=leaf_key("p224")), "key_not_allowed"),
    "Ed25519": (csr(key=leaf_key("ed25519")), "key_not_allowed"),
    "a bad request id": (request(request_id="a b"), "bad_request_id"),
    "a long request id": (request(request_id="a" * 65), "bad_request_id"),
}


@pytest.mark.timeout(60)
async def test_hostile_requests_get_the_one_code_and_the_signer_lives(served: Datacenter) -> None:
    """Failures F1, F2, F3, F13, F19."""
    for what, (body, code) in HOSTILE.items():
        answer = await served.ask(body)
        assert (what, answer.code) == (what, code)
        assert answer.headers["Nats-Service-Error-Code"] == code
        assert answer.headers["Nats-Service-Error"]

    assert (await served.ask(request(request_id="r1"))).code is None
    assert len(await served.leaves()) == 1


@pytest.mark.parametrize(
    "token", ["%77eb", "a%2eb", "s%c3%bcd", "%ff", "süd", "a.b", "web.x.y", "w%", "a!b"]
)
async def test_a_name_that_is_not_in_its_one_spelling_is_bad_name(
    served: Datacenter, token: str
) -> None:
    answer = await served.ask(csr_pem(), subject=f"ca.dc1.sign.service.{token}")

    assert answer.code == "bad_name"


async def test_what_is_no_identity_is_bad_name(served: Datacenter) -> None:
    for tokens in ("agent", "service", "gateway.a", "server.a", "nonsense", "node.a", "a.b.c.d"):
        answer = await served.ask(csr_pem(), subject=f"ca.dc1.sign.{tokens}")

        assert (tokens, answer.code) == (tokens, "bad_name")


async def test_11_12_40_each_kind_of_identity_gets_what_verifies(served: Datacenter) -> None:
    """11, 12, 40. Server, agent and mesh gateway are signed; each by its own subject alone."""
    state = await served.state()
    roots = [pem.encode(root.published.certificate) for root in state.roots.values()]
    kinds = {
        "agent.n1": (f"spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/n1", "AgentURI"),
        "gateway": (f"spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc1", "KindURI"),
        "server": (f"spiffe://{TRUST_DOMAIN}/agent/server/dc/dc1", "ServerURI"),
    }
    for tokens, (uri, field) in kinds.items():
        answer = await served.ask(csr_pem(uri=uri), subject=f"ca.dc1.sign.{tokens}")
        assert answer.told[field] == uri
        assert_all_accept(chain_of(answer.told["CertPEM"], roots))
        for other in kinds.keys() - {tokens}:
            refused = await served.ask(csr_pem(uri=uri), subject=f"ca.dc1.sign.{other}")
            assert refused.code == "identity_mismatch"


@pytest.mark.parametrize(
    ("key_type", "key_bits"), [("ec", 256), ("ec", 384), ("rsa", 2048)], ids=["p256", "p384", "rsa"]
)
async def test_37_43_leaves_over_key_types_come_later_and_later_in_the_ledger(
    nats_server: NatsServer, tmp_path: Path, key_type: KeyType, key_bits: int
) -> None:
    """37. Sign with ec and rsa CA: second cert's ModifyIndex > first's; verifies.

    43. SignLeaf over key types: URI kept, CN empty, a serial of its own, SKI = key id of CSR key,
    NotAfter within TTL, NotBefore in the past, trailing newline; agent IDs too.
    """
    config = CAConfig(csr_max_per_second=0, private_key_type=key_type, private_key_bits=key_bits)
    nc = await nats_server.client()
    dc = await Datacenter.begin(nc, tmp_path, config=config)
    agent = f"spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/n1"
    asked = [
        (tokens, uri, leaf_key(kind))
        for tokens, uri in (("service.web", WEB), ("agent.n1", agent))
        for kind in ("p256", "p384", "rsa2048")
    ]
    async with dc.replicator(), dc.signer(nc) as signer:
        await dc.assign({signer.run: ALL})
        answers = [
            await dc.ask(csr_pem(uri=uri, key=key), subject=f"ca.dc1.sign.{tokens}")
            for tokens, uri, key in asked
        ]
    roots = [pem.encode(root.published.certificate) for root in (await dc.state()).roots.values()]

    indexes = [answer.told["ModifyIndex"] for answer in answers]
    assert indexes == sorted(set(indexes)) == [answer.told["LedgerSequence"] for answer in answers]
    assert len({answer.serial for answer in answers}) == len(answers)
    for answer, (_, uri, key) in zip(answers, asked, strict=True):
        text = answer.told["CertPEM"]
        leaf = x509.load_pem_x509_certificate(text.encode())
        extensions, now = leaf.extensions, datetime.now(UTC)
        san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(san) == [x509.UniformResourceIdentifier(uri)]
        assert leaf.subject == x509.Name([])
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        key_id = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        assert key_id == hashlib.sha256(spki).digest()
        assert leaf.not_valid_before_utc < now
        assert now < leaf.not_valid_after_utc <= now + timedelta(hours=72)
        assert text.endswith("-----END CERTIFICATE-----\n")
        assert_all_accept(chain_of(text, roots))


async def test_names_are_certified_as_the_configuration_allows(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """H8: DNS and IP names are unconstrained in Consul."""
    allowed = AllowedNames(dns=("{name}.example",), ip=("127.0.0.1",))
    config = CAConfig(csr_max_per_second=0, sans=SanPolicy(service=allowed))
    nc = await nats_server.client()
    dc = await Datacenter.begin(nc, tmp_path, config=config)
    names = [x509.DNSName("web.example"), x509.IPAddress(ip_address("127.0.0.1"))]
    async with dc.replicator(), dc.signer(nc) as signer:
        await dc.assign({signer.run: ALL})
        answer = await dc.ask(csr(names=[*names, x509.UniformResourceIdentifier(WEB)]))
        refused = await dc.ask(
            csr(names=[x509.DNSName("api.example"), x509.UniformResourceIdentifier(WEB)])
        )

    leaf = x509.load_pem_x509_certificate(answer.told["CertPEM"].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(san) == [*names, x509.UniformResourceIdentifier(WEB)]
    assert refused.code == "san_not_allowed"
    [event] = await dc.leaves()
    assert (event.dns, event.ip) == (("web.example",), ("127.0.0.1",))


async def test_refusals_are_on_the_ledger_without_what_was_sent(served: Datacenter) -> None:
    secret = "do-not-record-me"
    await served.ask(json.dumps({"csr": secret, "request_id": "r1"}).encode())
    refusals = await until(served.refusals)

    [refused] = refusals
    assert isinstance(refused, LeafRefused)
    assert (refused.code, refused.request_id, refused.identity) == ("malformed", "r1", WEB)
    assert all(secret.encode() not in event.raw for event in await served.events())


async def test_a_flood_of_refusals_is_summed(dc: Datacenter, nats_server: NatsServer) -> None:
    flood = 500
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        await dc.ask(request())
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(dc.ask(b"garbage") for _ in range(flood)))
        seconds = asyncio.get_running_loop().time() - began
        signer.signer.settle()

        async def counted() -> list[LeafRefusalsCounted]:
            return [r for r in await dc.refusals() if isinstance(r, LeafRefusalsCounted)]

        await until(counted)
        await dc.ask(request())  # whatever waited rode along
        refusals = await dc.refusals()

    assert {answer.code for answer in answers} == {"malformed"}
    one_by_one = [r for r in refusals if isinstance(r, LeafRefused)]
    summed = [c for r in refusals if isinstance(r, LeafRefusalsCounted) for c in r.counts]
    assert 0 < len(one_by_one) <= RECORDED_PER_SECOND * (seconds + 2)
    told = len(one_by_one) + sum(count.count for count in summed)
    # Who hears nothing for a quarter of a second asks again, and is refused again.
    assert told == flood if seconds < 0.25 else told >= flood


async def test_of_a_flood_without_room_some_are_told_and_all_are_counted(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    """Failure F16: answers to a flood must not take the time in which others are heard."""
    flood = 3 * ITEMS_MAX + TURNED_AWAY_TOLD_PER_SECOND
    nc = await nats_server.client()
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        await dc.ask(request())
        answers: list[Answer] = []

        async def hear(message: Msg) -> None:
            answers.append(Answer(message))

        inbox = nc.new_inbox()
        await nc.subscribe(inbox, cb=hear)
        began = asyncio.get_running_loop().time()
        for _ in range(flood):
            await nc.publish(dc.subjects.sign("service", "web"), b"garbage", reply=inbox)
        await nc.flush()

        async def counted() -> bool:
            signer.signer.settle()
            return await refused() >= flood

        async def refused() -> int:
            found = await dc.refusals()
            sums = [c.count for r in found if isinstance(r, LeafRefusalsCounted) for c in r.counts]
            return sum(sums) + sum(isinstance(r, LeafRefused) for r in found)

        await until(counted)
        seconds = asyncio.get_running_loop().time() - began
        assert await refused() == flood

    codes = Counter(answer.code for answer in answers)
    assert set(codes) == {"malformed", "not_ready"}
    assert codes["malformed"] >= ITEMS_MAX
    assert 0 < codes["not_ready"] <= TURNED_AWAY_TOLD_PER_SECOND * (seconds + 1)
    assert len(answers) < flood


async def test_what_was_refused_without_a_grant_is_recorded_with_the_next(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    """As where the grant changes between the answer and its record."""
    refusal = Refusal(request_id="r1", identity=WEB, code="malformed", message="no", requester=None)
    async with dc.signer(await nats_server.client()) as signer:
        signer.signer._refusals.add(refusal, SystemClock().now())
        await dc.assign({signer.run: ALL})

        [refused] = await until(dc.refusals)

    assert isinstance(refused, LeafRefused)
    assert (refused.request_id, refused.signer) == ("r1", signer.run)


async def test_nothing_is_sent_where_no_inbox_is(served: Datacenter) -> None:
    """NATS does not check a sender's reply subject (architecture 6.1)."""
    before = await served.ledger.last_sequence()
    for reply in ("ca.dc1.ledger.authority", "ca.dc1.ledger.leaves.x", "$KV.CA_LEASES_dc1.leader"):
        await served.nc.publish(
            served.subjects.sign("service", "web"), request(request_id="r1"), reply=reply
        )
    answer = await served.ask(request(request_id="r2"))

    [leaf] = await served.leaves()
    assert leaf.request_id == "r2"
    assert answer.told["LedgerSequence"] == before + 1


async def at_once(dc: Datacenter, number: int, *, request_id: str = "r1") -> list[Answer]:
    """Ask for so many certificates at once, each for a service of its own."""
    names = [f"service-{each}" for each in range(number)]
    bodies = [request(name, request_id=request_id) for name in names]
    return await asyncio.gather(
        *(
            ask_once(dc.nc, dc.subjects.sign("service", name), body)
            for name, body in zip(names, bodies, strict=True)
        )
    )


async def test_38_the_rate_limit_is_consuls(dc: Datacenter, nats_server: NatsServer) -> None:
    """38. Rate limit: 1/s, 10 rapid CSRs -> >= 1 ok, >= 7 "Rate limit reached..."."""
    first = request(request_id="first")
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        issued = await dc.ask(first)
        await dc.assign({signer.run: ALL}, rate=1)
        await asyncio.sleep(1.1)  # a share begins without a token
        answers = await at_once(dc, 10)
        again = await dc.ask(first)
        await dc.assign({signer.run: ALL}, rate=0)

        async def unlimited() -> bool:
            found = await asyncio.gather(*(dc.ask(csr_pem()) for _ in range(10)))
            return all(answer.code is None for answer in found)

        await until(unlimited)

    codes = Counter(answer.code for answer in answers)
    assert codes[None] >= 1
    assert codes["rate_limited"] >= 7
    assert codes.total() == codes[None] + codes["rate_limited"]
    limited = next(answer for answer in answers if answer.code == "rate_limited")
    assert limited.told["error"]["message"] == "Rate limit reached, try again later"
    assert limited.told["error"]["retry_after"] > 0
    assert again.body == issued.body  # what was issued before costs no turn


async def test_who_waits_for_his_turn_when_the_limit_ends_gets_his_certificate(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL}, rate=2.1)
        asking = asyncio.create_task(dc.ask(request(request_id="waits")))

        async def waits() -> bool:
            return signer.signer._limits.waiting == 1

        await until(waits)
        await dc.assign({signer.run: ALL}, rate=0)

        assert (await asking).code is None


class SlowLedger(JetStreamLedger):
    """The real ledger, on a slow disk."""

    async def append_leaves(
        self, run: str, events: Sequence[NewEvent], *, grant_sequence: int
    ) -> Appended:
        await asyncio.sleep(0.2)
        return await super().append_leaves(run, events, grant_sequence=grant_sequence)


async def test_39_no_more_signatures_are_under_way_than_the_share_says(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    """39. Concurrency limit 1: some succeed, others limited; what is under way shares an entry."""
    nc = await nats_server.client()
    async with dc.signer(nc, ledger=SlowLedger(nc, dc.subjects)) as signer:
        await dc.assign({signer.run: ALL})
        await dc.ask(request())  # it serves
        together: dict[int, int] = {}
        for share in (1, 3):
            grant = await dc.assign({signer.run: ALL}, concurrent=share)

            async def granted(sequence: int = grant) -> bool:
                return signer.signer._grantee.holdings.grant_sequence > sequence

            await until(granted)
            answers = await at_once(dc, 12, request_id=f"r{share}")
            codes = Counter(answer.code for answer in answers)
            entries = Counter(
                answer.told["LedgerSequence"] for answer in answers if answer.code is None
            )
            together[share] = max(entries.values())
            assert share <= codes[None] <= 3 * share  # in half a second, but for who began in it
            assert codes["rate_limited"] >= 3
            assert codes.total() == codes[None] + codes["rate_limited"]

    assert together == {1: 1, 3: 3}
    assert await dc.faults() == []


# --- grants and partitions


async def test_what_comes_before_the_projections_are_there_waits_and_is_bounded(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Failures F10, F16: nothing is decided on an index that may lack what came before."""
    nc = await nats_server.client()
    dc = await Datacenter.begin(nc, tmp_path)
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})

        async def hears() -> bool:
            with suppress(NatsError, TimeoutError):
                await nc.request(subject, b'{"request_id": "x"}', timeout=0.05)
            return signer.signer.holding > 0

        subject = dc.subjects.sign("service", "web")
        await until(hears)
        first = asyncio.create_task(ask_once(nc, subject, request(request_id="r1")))
        flood = [
            asyncio.create_task(ask_once(nc, subject, b'{"request_id": "x"}'))
            for _ in range(HELD_MAX + 100)
        ]
        done, _ = await asyncio.wait(flood, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().code for task in done} == {"not_ready"}
        assert next(iter(done)).result().told["error"]["retry_after"] > 0
        assert not first.done()
        async with dc.replicator():
            assert (await first).code is None
            answers = await asyncio.gather(*flood)

    codes = Counter(answer.code for answer in answers)
    assert codes["not_ready"] >= 100
    assert set(codes) <= {"not_ready", "not_found"}
    assert len(await dc.leaves()) == 1


async def test_while_the_index_is_gone_nothing_is_issued_twice(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    dc = await Datacenter.begin(await nats_server.client(), tmp_path)
    body = request(request_id="r1")
    async with dc.signer(await nats_server.client()) as signer:
        async with dc.replicator():
            await dc.assign({signer.run: ALL})
            before = await dc.ask(body)
            await all_stored(dc)
            await dc.ask(body)  # the signer's memory of it is gone now
        disk.delete(dc.projections)
        waiting = asyncio.create_task(dc.ask(body))

        async def held() -> bool:
            return signer.signer.holding > 0

        await until(held)
        async with dc.replicator():
            assert (await waiting).body == before.body

    assert len(await dc.leaves()) == 1


async def test_partitions_that_move_under_load_lose_nothing_and_double_nothing(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    names = [f"service-{number}" for number in range(150)]
    bodies = {name: request(name, request_id="r1") for name in names}
    async with AsyncExitStack() as stack:
        one, two = [
            (await stack.enter_async_context(dc.signer(await nats_server.client()))).run
            for _ in range(2)
        ]
        await dc.assign({one: ALL})
        asking = [asyncio.create_task(dc.ask(bodies[name], name=name)) for name in names]
        again = [asyncio.create_task(dc.ask(bodies[name], name=name)) for name in names]
        for turn in range(12):
            mine = [p for p in ALL if (p + turn) % 3 == 0]
            await dc.assign({one: mine, two: [p for p in ALL if p not in mine]})
            await asyncio.sleep(0.02)
        answers = await asyncio.gather(*asking)
        repeated = await asyncio.gather(*again)

    assert [answer.code for answer in answers] == [None] * len(names)
    assert [answer.body for answer in answers] == [answer.body for answer in repeated]
    assert Counter(leaf.name for leaf in await dc.leaves()) == dict.fromkeys(names, 1)
    assert await dc.faults() == []


async def test_a_signer_without_a_grant_is_silent_also_where_no_mapping_took_it(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    others = [p for p in ALL if p != partition("web")]
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(dc.signer(await nats_server.client()))
        other = await stack.enter_async_context(dc.signer(await nats_server.client()))
        await dc.assign({owner.run: [partition("web")], other.run: others})
        issued = await dc.ask(request(request_id="r1"))
        unmapped = await dc.ask(csr_pem(), subject="ca.dc1.sign.a.b.c")

    assert (issued.code, unmapped.code) == (None, "bad_name")
    [leaf] = await dc.leaves()
    assert leaf.signer == owner.run


async def test_after_a_new_grant_what_was_signed_under_the_old_one_never_leaves(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    """The append is refused; the request is decided anew, under the new grant."""
    body = request(request_id="r1")
    async with dc.signer_process(
        nats_server.url, CALEDGER_TESTING_STOP_AT="signer.signed=STOP"
    ) as signer:
        old = await dc.assign({signer.run: ALL})
        asking = asyncio.create_task(dc.ask(body))
        await until(signer.is_stopped)
        new = await dc.assign({signer.run: ALL}, rate=1000)
        for _ in range(20):  # it stops at every signature that it makes
            signer.go_on()
            await asyncio.sleep(0.05)
            if asking.done():
                break
        answer = await asking

    [leaf] = await dc.leaves()
    assert leaf.grant_sequence == new + 1 > old + 1
    assert answer.serial == leaf.serial
    assert await dc.faults() == []


async def test_a_signer_stopped_between_signing_and_appending_while_its_partitions_move(
    dc: Datacenter, nats_server: NatsServer, tmp_path: Path
) -> None:
    """One certificate; the stopped signer's own append is refused, and it says nothing."""
    body = request(request_id="r1")
    once = tmp_path / "once"
    async with (
        dc.signer_process(
            nats_server.url,
            CALEDGER_TESTING_STOP_AT="signer.signed=STOP",
            CALEDGER_TESTING_ONCE=str(once),
        ) as stopped,
        dc.signer(await nats_server.client()) as heir,
    ):
        await dc.assign({stopped.run: ALL})
        asking = asyncio.create_task(dc.ask(body))
        await until(stopped.is_stopped)
        await dc.assign({heir.run: ALL})
        answer = await asking
        await asyncio.sleep(4)  # past the server's patience with a silent connection
        stopped.go_on()
        answers = [await dc.ask(body) for _ in range(20)]
        await dc.assign({stopped.run: [0], heir.run: [p for p in ALL if p != 0]})
        name = next(f"s{n}" for n in range(1000) if partition(f"s{n}") == 0)
        after = await dc.ask(request(name, request_id="r2"), name=name)

    assert {each.body for each in answers} == {answer.body}
    assert after.code is None  # it lives, and serves under a new grant
    leaves = await dc.leaves()
    assert [(leaf.name, leaf.signer) for leaf in leaves] == [
        ("web", heir.run),
        (name, stopped.run),
    ]
    assert await dc.faults() == []


@pytest.mark.parametrize("step", ["checked", "signed", "appended"])
async def test_a_signer_killed_between_two_steps_leaves_exactly_one_certificate(
    dc: Datacenter, nats_server: NatsServer, step: str
) -> None:
    """Failure F5: the client's retry gets it from the next run."""
    body = request(request_id="r1")
    async with dc.signer_process(
        nats_server.url, CALEDGER_TESTING_STOP_AT=f"signer.{step}=KILL"
    ) as killed:
        await dc.assign({killed.run: ALL})
        asking = asyncio.create_task(dc.ask(body))
        await until(killed.is_dead)
        recorded = len(await dc.leaves())
        async with dc.signer(await nats_server.client()) as successor:
            await dc.assign({successor.run: ALL})
            answer = await asking

    assert recorded == (1 if step == "appended" else 0)
    [leaf] = await dc.leaves()
    assert leaf.signer == (killed.run if step == "appended" else successor.run)
    assert answer.serial == leaf.serial
    assert await dc.faults() == []


async def test_a_server_that_is_killed_and_comes_back_is_survived(
    dc: Datacenter, nats_server: NatsServer
) -> None:
    names = [f"service-{number}" for number in range(40)]
    async with dc.signer(await nats_server.client()) as signer:
        await dc.assign({signer.run: ALL})
        acknowledged: dict[str, Answer] = {}

        async def ask(name: str) -> None:
            acknowledged[name] = await dc.ask(request(name, request_id="r1"), name=name)

        for number in range(0, 40, 10):
            tasks = [asyncio.create_task(ask(name)) for name in names[number : number + 10]]
            await asyncio.sleep(0.01)
            nats_server.kill()
            nats_server.start()
            await nats_server.ready()
            await asyncio.gather(*tasks)

    serials = {leaf.serial for leaf in await dc.leaves()}
    assert {a.serial for a in acknowledged.values()} == serials
    assert len(serials) == 40
    assert await dc.faults() == []
