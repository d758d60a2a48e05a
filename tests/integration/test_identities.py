"""Who gets a certificate for which identity, over the real accounts: the server's refusals first.

What nats-server lets through, the signer checks; one real server, one real signer, a user a role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest
import pytest_asyncio
from cryptography import x509
from nats.aio.client import Client

from services.pki import certificates, pem
from tests.access import AccessServer, access_server
from tests.factories import TRUST_DOMAIN, WEB, ca_key, csr, csr_pem, service_uri, sign_with
from tests.integration.signing import ALL, Answer, Datacenter
from tests.verifiers import assert_all_accept, chain_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("identities"),  # one server for all of them
]

AGENT = f"spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/n1"
GATEWAY = f"spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc1"
SERVER = f"spiffe://{TRUST_DOMAIN}/agent/server/dc/dc1"

IDENTITIES = {"service.web": WEB, "agent.n1": AGENT, "gateway": GATEWAY, "server": SERVER}
USERS = {"shop": "service.web", "node": "agent.n1", "mesh": "gateway", "consul": "server"}
URI = x509.UniformResourceIdentifier


class Mesh(NamedTuple):
    """A datacenter, and a connection of each user with what the server refused to it."""

    dc: Datacenter
    users: dict[str, tuple[Client, list[str]]]
    roots: list[str]

    async def ask(self, user: str, tokens: str, request: bytes) -> Answer:
        """Ask once, as a user who may."""
        nc, refused = self.users[user]
        answer = Answer(await nc.request(f"ca.dc1.sign.{tokens}", request, timeout=10))
        assert refused == []
        return answer

    async def denied(self, user: str, tokens: str, request: bytes) -> bool:
        """Say whether the server refuses this to a user; nobody hears it then."""
        nc, refused = self.users[user]
        subject = f"ca.dc1.sign.{tokens}"
        await nc.publish(subject, request, reply=nc.new_inbox())
        await nc.flush()  # the server's refusal comes before its pong
        told = list(refused)
        refused.clear()
        return told == [subject]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """One signer for everything; a user for each kind of identity, and the admin."""
    async with access_server() as access:
        dc = Datacenter(await access.connect("root-manager"), tmp_path_factory.mktemp("mesh"))
        await dc.initialise()
        async with dc.replicator(), dc.signer(await access.connect("signer")) as signer:
            await dc.assign({signer.run: ALL})
            yield Mesh(dc, await _users(access), await _roots(dc))


async def _users(access: AccessServer) -> dict[str, tuple[Client, list[str]]]:
    users: dict[str, tuple[Client, list[str]]] = {}
    for name, sign in USERS.items():
        refused: list[str] = []
        users[name] = await access.client(name, sign, refused=refused), refused
    for name in ("admin", "auditor"):
        refused = []
        users[name] = await access.connect(name, refused), refused
    return users


async def _roots(dc: Datacenter) -> list[str]:
    return [pem.encode(root.published.certificate) for root in (await dc.state()).roots.values()]


async def test_11_a_server_gets_its_certificate(mesh: Mesh) -> None:
    """11. Sign_SpiffeIDServer: server URI CSR is signed; ServerURI returned; verifies."""
    answer = await mesh.ask("consul", "server", csr_pem(uri=SERVER))

    assert answer.code is None, answer.body
    assert answer.told["ServerURI"] == SERVER
    assert {"ServiceURI", "AgentURI", "KindURI"} & answer.told.keys() == set()
    chain = chain_of(answer.told["CertPEM"], mesh.roots)
    san = (
        x509.load_der_x509_certificate(chain.leaf)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert list(san) == [URI(SERVER)]
    assert_all_accept(chain)


async def test_12_each_role_is_certified_for_its_own_identity_and_denied_every_other(
    mesh: Mesh,
) -> None:
    """12. AuthorizeAndSignCertificate: service, agent, gateway denied; 40. ACL denials.

    What Consul's ACL system denies, nats-server does: nobody hears the request.
    """
    leaves = len(await mesh.dc.leaves())
    refusals = len(await mesh.dc.refusals())
    for user, own in USERS.items():
        for tokens, uri in IDENTITIES.items():
            if tokens == own:
                assert (await mesh.ask(user, tokens, csr_pem(uri=uri))).code is None
            else:
                assert await mesh.denied(user, tokens, csr_pem(uri=uri)), (user, tokens)
        for tokens in ("service.db", "agent.n2", "service.web.x"):
            assert await mesh.denied(user, tokens, csr_pem()), (user, tokens)
    for tokens, uri in IDENTITIES.items():
        assert await mesh.denied("auditor", tokens, csr_pem(uri=uri)), tokens
        assert (await mesh.ask("admin", tokens, csr_pem(uri=uri))).code is None

    assert len(await mesh.dc.leaves()) == leaves + len(USERS) + len(IDENTITIES)
    assert len(await mesh.dc.refusals()) == refusals


def named(*names: x509.GeneralName) -> bytes:
    return csr(names=names)


def elsewhere(uri: str) -> bytes:
    return csr(uri=uri.replace("/dc/dc1", "/dc/dc2"))


def stolen(uri: str) -> bytes:
    """Return the request of whoever has not got the key."""
    good = x509.load_der_x509_csr(csr(uri=uri)).tbs_certrequest_bytes
    return certificates.assemble(good, sign_with(ca_key(number=7), good), "ec")


FOREIGN = "SPIFFE ID in CSR from a different"
KINDS = "SPIFFE ID in CSR must be a service, mesh-gateway, or agent ID"
WRONG_DATACENTER = ("wrong_datacenter", f"{FOREIGN} datacenter: dc2, we are dc1")

EVERY_KIND: dict[str, tuple[Callable[[str], bytes], str, str]] = {
    "two URIs": (
        lambda uri: named(URI(uri), URI(service_uri("db"))),
        "uri_count",
        "CSR SAN contains an invalid number of URIs: 2",
    ),
    "no URI": (lambda _: named(), "uri_count", "CSR SAN contains an invalid number of URIs: 0"),
    "e-mail": (
        lambda uri: named(URI(uri), x509.RFC822Name("a@b.c")),
        "email_san",
        "CSR SAN does not allow specifying email addresses",
    ),
    "the key of another": (
        stolen,
        "bad_signature",
        "CSR signature does not verify with its own key",
    ),
    "no SPIFFE ID": (
        lambda _: csr(uri="https://example.com"),
        "identity_mismatch",
        "SPIFFE ID must have 'spiffe' scheme",
    ),
    "the signing URI": (
        lambda _: csr(uri=f"spiffe://{TRUST_DOMAIN}"),
        "identity_mismatch",
        KINDS,
    ),
}


@pytest.mark.parametrize("what", EVERY_KIND)
async def test_12_h8_h18_every_path_has_the_same_checks(mesh: Mesh, what: str) -> None:
    """12. Two URIs; e-mail; bad SPIFFE; signing URI rejected as type. H8, H18: on every path."""
    make, code, message = EVERY_KIND[what]
    for user, tokens in USERS.items():
        refused = await mesh.ask(user, tokens, make(IDENTITIES[tokens]))

        assert (refused.code, refused.told["error"]["message"]) == (code, message), user


async def test_12_40_another_datacenter_or_trust_domain_is_refused_in_consuls_words(
    mesh: Mesh,
) -> None:
    """12. Service and gateway of the wrong DC; 40. Sign validation: wrong trust domain, DC.

    An agent may ask before it knows the trust domain; its own is certified (section 2.5, step 7).
    """
    for user in ("shop", "mesh", "consul"):
        tokens = USERS[user]
        refused = await mesh.ask(user, tokens, elsewhere(IDENTITIES[tokens]))
        assert (refused.code, refused.told["error"]["message"]) == WRONG_DATACENTER, user
        foreign = IDENTITIES[tokens].replace(TRUST_DOMAIN, "other.consul")
        refused = await mesh.ask(user, tokens, csr_pem(uri=foreign))
        assert (refused.code, refused.told["error"]["message"]) == (
            "wrong_trust_domain",
            f"{FOREIGN} trust domain: other.consul, we are {TRUST_DOMAIN}",
        ), user

    early = await mesh.ask("node", "agent.n1", csr_pem(uri=AGENT.replace(TRUST_DOMAIN, "dummy.x")))
    assert early.told["AgentURI"] == AGENT
    [name] = chain_names(early)
    assert name == AGENT


def chain_names(answer: Answer) -> list[str]:
    leaf = x509.load_pem_x509_certificate(answer.told["CertPEM"].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return san.get_values_for_type(URI)
