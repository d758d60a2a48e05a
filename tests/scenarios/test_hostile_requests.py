"""Requests that nobody honest sends, over real NATS, as a user who may ask for anything."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Final

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from nats.aio.client import Client
from nats.errors import BadSubjectError

from events.base import Struct
from events.leaves import LeafRefusalsCounted, LeafRefused, RefusalCode
from events.signers import SignersAssigned
from services.client import CaClient
from services.readiness import until_ready
from tests import factories
from tests.factories import csr, leaf_key, pem_of
from tests.scenarios import reading
from tests.scenarios.caledger import Caledger

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile")]

SIGNERS: Final = ("signer-0", "signer-1")
ANSWER_SECONDS: Final = 10.0
MAX_PAYLOAD: Final = 1024 * 1024  # nats-server's default

Body = Callable[["Names"], bytes]


class Names(Struct):
    """What the running datacenter calls things."""

    domain: str
    web: str  # the SPIFFE id of service web

    def uri(self, service: str, *, domain: str | None = None, datacenter: str = "dc1") -> str:
        return factories.service_uri(service, trust_domain=domain or self.domain, dc=datacenter)


class Hostile(Struct):
    """A request, and the one code that it gets."""

    what: str
    code: RefusalCode
    body: Body
    tokens: str = "service.web"  # after ca.dc1.sign.


def fixed(body: bytes) -> Body:
    return lambda _: body


def good(names: Names) -> bytes:
    return csr(uri=names.web)


def asking(*sans: x509.GeneralName) -> Body:
    """Return a request for web with further names."""
    return lambda names: csr(names=[x509.UniformResourceIdentifier(names.web), *sans])


def told(**fields: Any) -> Body:
    """Return a JSON body with a good request in it."""
    return lambda names: json.dumps({"csr": pem_of(good(names)).decode(), **fields}).encode()


def with_key(kind: str) -> Body:
    return lambda names: csr(uri=names.web, key=leaf_key(kind))


def badly_signed(names: Names) -> bytes:
    """Return a request whose signature is well-formed and not of its key."""
    der = bytearray(good(names))
    der[-1] ^= 1
    return bytes(der)


def signed_by_another(names: Names) -> bytes:
    """Return what one asks for under the signature of another, by another key (F2)."""
    ours = good(names)
    signature = x509.load_der_x509_csr(ours).signature
    while True:  # an ECDSA signature's length varies by a byte or two
        theirs = x509.load_der_x509_csr(csr(uri=names.web, key=leaf_key("p256", 7))).signature
        if len(theirs) == len(signature):
            assert ours.endswith(signature)
            return ours.removesuffix(signature) + theirs


MALFORMED: Final = (
    Hostile(what="garbage", code="malformed", body=fixed(bytes(range(256)))),
    Hostile(what="nothing", code="malformed", body=fixed(b"")),
    Hostile(what="a DER that is cut", code="malformed", body=lambda names: good(names)[:-5]),
    Hostile(what="a DER with more after it", code="malformed", body=lambda n: good(n) + b"\0"),
    Hostile(what="a sequence of nothing", code="malformed", body=fixed(b"\x30\x80\x00\x00")),
    Hostile(what="two requests", code="malformed", body=lambda names: pem_of(good(names)) * 2),
    Hostile(
        what="another PEM", code="malformed", body=lambda names: pem_of(good(names), "CERTIFICATE")
    ),
    Hostile(what="half a JSON", code="malformed", body=fixed(b'{"csr": "')),
    Hostile(what="deep JSON", code="malformed", body=fixed(b'{"csr": ' + b"[" * 20_000)),
    Hostile(what="a field that is unknown", code="malformed", body=told(subject="root")),
    Hostile(what="a CSR that is a number", code="malformed", body=fixed(b'{"csr": 7}')),
    Hostile(what="a JSON that asks nothing", code="malformed", body=fixed(b"{}")),
    Hostile(what="64 KiB and a byte", code="too_large", body=fixed(b"{" + b" " * 64 * 1024)),
    Hostile(what="just under 1 MB", code="too_large", body=fixed(b"0" * (MAX_PAYLOAD - 1024))),
    Hostile(what="all that NATS takes", code="too_large", body=fixed(b"0" * MAX_PAYLOAD)),
)

WRONG: Final = (
    Hostile(what="no SAN", code="uri_count", body=fixed(csr(names=[]))),
    Hostile(
        what="two URIs",
        code="uri_count",
        body=lambda n: csr(names=[x509.UniformResourceIdentifier(n.uri(s)) for s in ("web", "db")]),
    ),
    Hostile(
        what="the URI twice",
        code="uri_count",
        body=lambda n: csr(names=[x509.UniformResourceIdentifier(n.web)] * 2),
    ),
    Hostile(what="e-mail", code="email_san", body=asking(x509.RFC822Name("root@example.com"))),
    Hostile(what="DNS", code="san_not_allowed", body=asking(x509.DNSName("web.example.com"))),
    Hostile(
        what="an IP address",
        code="san_not_allowed",
        body=lambda n: csr(
            names=[
                x509.UniformResourceIdentifier(n.web),
                x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
            ]
        ),
    ),
    Hostile(
        what="foreign trust domain",
        code="wrong_trust_domain",
        body=lambda n: csr(uri=n.uri("web", domain="99999999-2222-3333-4444-555555555555.consul")),
    ),
    Hostile(
        what="foreign datacenter",
        code="wrong_datacenter",
        body=lambda n: csr(uri=n.uri("web", datacenter="dc2")),
    ),
    Hostile(what="another service", code="identity_mismatch", body=lambda n: csr(uri=n.uri("db"))),
    Hostile(
        what="another namespace",
        code="identity_mismatch",
        body=lambda n: csr(uri=n.web.replace("/ns/default/", "/ns/other/")),
    ),
    Hostile(
        what="the same name, written otherwise",
        code="identity_mismatch",
        body=lambda n: csr(uri=n.web.replace("web", "%77eb")),
    ),
    Hostile(
        what="the trust domain in capitals",
        code="identity_mismatch",
        body=lambda n: csr(uri=n.web.replace(n.domain, n.domain.upper())),
    ),
    Hostile(what="a query", code="identity_mismatch", body=lambda n: csr(uri=f"{n.web}?admin=1")),
    Hostile(
        what="an agent",
        code="identity_mismatch",
        body=lambda n: csr(uri=f"spiffe://{n.domain}/agent/client/dc/dc1/id/web"),
    ),
    Hostile(
        what="the authority itself",
        code="identity_mismatch",
        body=lambda n: csr(uri=f"spiffe://{n.domain}"),
    ),
    Hostile(what="no SPIFFE id", code="identity_mismatch", body=fixed(csr(uri="https://web"))),
    Hostile(what="a wrong signature", code="bad_signature", body=badly_signed),
    Hostile(what="another's signature", code="bad_signature", body=signed_by_another),
    Hostile(
        what="a weak hash",
        code="bad_signature",
        body=lambda n: csr(uri=n.web, digest=hashes.SHA224()),
    ),
    *(
        Hostile(what=f"a key of {kind}", code="key_not_allowed", body=with_key(kind))
        for kind in ("rsa1024", "p224", "p521", "secp256k1", "ed25519")
    ),
)

NAMED: Final = (  # tokens that are no name, or not the one way to write it, or one too many
    *(
        Hostile(what=tokens, code="bad_name", body=good, tokens=tokens)
        for tokens in (
            *("service.web.x", "service.a.b", "service", "nonsense.web", "nonsense", "Service.web"),
            *("agent.a.b", "service.*", "service.>", "*.web", "service.wéb", "service.%77eb"),
            *("service.%2a", "service.%FF", "service.%", "service.a~b", "service.a/b"),
            *("service.%2E", "service.%2E%2E", "service." + "x" * 129),
        )
    ),
    *(  # written as they must be, these are names; web's request is not theirs
        Hostile(what=tokens, code="identity_mismatch", body=good, tokens=tokens)
        for tokens in ("service.a%2Eb", "service.a%20b", "service.%2A", "service.w%C3%A9b")
    ),
)

IDENTIFIED: Final = (
    *(
        Hostile(what=f"request id {name!r:.20}", code="bad_request_id", body=told(request_id=name))
        for name in ("", "a b", "a.b", "ü", "x" * 65, "a\n", 7, ["a"])
    ),
    Hostile(
        what="an id that nothing was issued for",
        code="not_found",
        body=fixed(b'{"request_id": "never"}'),
    ),
    Hostile(
        what="a known id with another request",
        code="request_id_conflict",
        body=told(request_id="known"),
    ),
    Hostile(
        what="a known id with a request that is none",
        code="request_id_conflict",
        body=lambda n: json.dumps(
            {"csr": pem_of(b"\x30\x03\x02\x01\x00").decode(), "request_id": "known"}
        ).encode(),
    ),
)

CASES: Final = (*MALFORMED, *WRONG, *NAMED, *IDENTIFIED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caledger]:
    """One `caledger dev` for the whole file."""
    async with Caledger(tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(dev: Caledger) -> CaClient:
    """The admin: may ask for every name and read the ledger."""
    return await dev.client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def names(client: CaClient) -> Names:
    """What things are called; service web has one certificate, of request id `known`."""
    asker = await reading.Asker.of(client)
    key = leaf_key("p256", 5)
    await asker.sign("web", "known", csr=pem_of(csr(uri=asker.uri("web"), key=key)).decode())
    return Names(domain=asker.domain, web=asker.uri("web"))


async def refusal(nc: Client, hostile: Hostile, names: Names) -> str:
    """Return the code of the one answer to a request; fails if header and body disagree.

    It is sent once: while no partition is on the move, no request is lost.
    """
    message = await nc.request(
        f"ca.dc1.sign.{hostile.tokens}", hostile.body(names), timeout=ANSWER_SECONDS
    )
    reply = json.loads(message.data)
    code: str = reply["error"]["code"]
    headers = message.headers or {}
    assert set(reply) == {"error"}
    assert headers["Nats-Service-Error-Code"] == code
    assert headers["Nats-Service-Error"]
    return code


def refused(events: list[Any]) -> Counter[str]:
    """Return how often there was which code, recorded one by one or summed."""
    counts: Counter[str] = Counter()
    for event in events:
        if isinstance(event, LeafRefused):
            counts[event.code] += 1
        elif isinstance(event, LeafRefusalsCounted):
            for count in event.counts:
                counts[count.code] += count.count
    return counts


async def events(client: CaClient) -> list[Any]:
    return [each.event for each in await reading.recorded(client)]


async def signers_begin_anew(dev: Caledger, client: CaClient) -> None:
    """Stop both signers, one after the other: who stops records what it has not summed yet.

    Returns when both successors answer for what they hold.
    """
    old = {a.signer for a in (await reading.events_of(client, SignersAssigned))[-1].assignments}
    for signer in SIGNERS:
        stopped = dev.kill(signer, signal.SIGTERM)
        await dev.restarted(signer, instead_of=stopped)
    async with asyncio.timeout(10):
        while True:
            table = (await reading.events_of(client, SignersAssigned))[-1].assignments
            if len(table) == len(SIGNERS) and not old & {a.signer for a in table}:
                break
            await asyncio.sleep(0.05)
    await until_ready(client)


@pytest.mark.parametrize("hostile", CASES, ids=lambda case: f"{case.code}-{case.what:.40}")
async def test_f01_f02_f03_f13_f19_a_hostile_request_gets_its_one_error(
    dev: Caledger, client: CaClient, names: Names, hostile: Hostile
) -> None:
    """F1, F2, F3, F13, F19: one answer with the code of the rule that the request breaks; the same
    signers go on, and nothing is signed.
    """
    running = {signer: dev.pid(signer) for signer in SIGNERS}
    before = len(await reading.issued(client))

    code = await refusal(client.nc, hostile, names)

    assert code == hostile.code
    assert {signer: dev.pid(signer) for signer in SIGNERS} == running
    assert len(await reading.issued(client)) == before


async def test_a_subject_with_a_space_cannot_be_sent_at_all(client: CaClient) -> None:
    """To NATS it would be a subject and where to reply; clients refuse to send it."""
    with pytest.raises(BadSubjectError):
        await client.nc.request("ca.dc1.sign.service.a b", b"", timeout=1)


async def test_a_refusal_is_on_the_ledger_with_who_asked_for_what(
    dev: Caledger, client: CaClient, names: Names
) -> None:
    """Few enough to be recorded one by one; what is recorded names the user, the identity and the
    request id as far as they are known, and nothing of the body.
    """
    first = {case.code: case for case in reversed(CASES)}
    asked = [first[code] for code in ("malformed", "uri_count", "bad_name", "request_id_conflict")]
    await signers_begin_anew(dev, client)
    asker = await reading.Asker.of(client)
    await asker.sign("web", "between")
    after = (await reading.recorded(client))[-1].sequence

    for hostile in asked:
        await refusal(client.nc, hostile, names)

    async with asyncio.timeout(10):
        while len(found := await refused_after(client, after)) < len(asked):
            await asyncio.sleep(0.05)
    (user,) = json.loads((dev.data / "nats" / "users" / "admin.json").read_text())["keys"]
    assert Counter((event.code, event.identity, event.request_id) for event in found) == Counter(
        [
            ("malformed", names.web, None),
            ("uri_count", names.web, None),
            ("bad_name", None, None),
            ("request_id_conflict", names.web, "known"),
        ]
    )
    assert {event.requester for event in found} == {user}


async def refused_after(client: CaClient, sequence: int) -> list[LeafRefused]:
    return [
        each.event
        for each in await reading.recorded(client)
        if each.sequence > sequence and isinstance(each.event, LeafRefused)
    ]


async def test_f19_a_flood_is_answered_and_summed_to_the_last_request(
    dev: Caledger, client: CaClient, names: Names
) -> None:
    """2,000 refused requests at once, to both signers: each is answered with its code; the ledger
    has at most ten a second and signer of them one by one, and the sum of the rest, exactly.
    """
    await signers_begin_anew(dev, client)
    running = {signer: dev.pid(signer) for signer in SIGNERS}
    before = await events(client)
    loop = asyncio.get_running_loop()
    began = loop.time()
    floods = [
        Hostile(what="flood", code="malformed", body=fixed(b"flood"), tokens=f"service.flood-{i}")
        for i in range(1_000)
    ] + [
        Hostile(what="flood", code="bad_name", body=good, tokens=f"service.flood.{i}")
        for i in range(1_000)
    ]
    answers = await asyncio.gather(*(refusal(client.nc, flood, names) for flood in floods))
    took = loop.time() - began
    asker = await reading.Asker.of(client)
    await asker.sign("after-the-flood", "after-the-flood")
    survived = {signer: dev.pid(signer) for signer in SIGNERS}
    await signers_begin_anew(dev, client)
    await asker.sign("after-the-flood", "after-the-flood-2")
    after = (await events(client))[len(before) :]

    one_by_one = sum(isinstance(event, LeafRefused) for event in after)
    sums = [event for event in after if isinstance(event, LeafRefusalsCounted)]
    print(f"{len(floods)} refused in {took:.2f} s: {one_by_one} recorded, {len(sums)} sums")
    assert Counter(answers) == Counter(malformed=1_000, bad_name=1_000)
    assert refused(after) == Counter(answers)
    assert one_by_one <= 10 * len(SIGNERS) * (took + 2)
    assert sums
    assert survived == running


@pytest.mark.slow
async def test_f19_what_is_refused_beyond_ten_a_second_is_summed_once_a_minute(
    client: CaClient, names: Names
) -> None:
    """A small flood, and a minute's patience: the sum comes although nothing else happens."""
    before = await events(client)
    flood = Hostile(what="flood", code="malformed", body=fixed(b"flood"))
    answers = await asyncio.gather(*(refusal(client.nc, flood, names) for _ in range(100)))

    async with asyncio.timeout(90):
        while True:
            after = (await events(client))[len(before) :]
            if sums := [event for event in after if isinstance(event, LeafRefusalsCounted)]:
                break
            await asyncio.sleep(1)

    assert refused(after) == Counter(answers) == Counter(malformed=100)
    assert all(sum_.until - sum_.since >= timedelta(minutes=1) for sum_ in sums)
