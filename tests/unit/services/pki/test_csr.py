from __future__ import annotations

import hashlib
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from events.authority import AllowedNames
from events.leaves import IdentityKind, RefusalCode
from services.pki import certificates, csr, der
from services.pki.csr import Asker, CheckedCsr
from services.refusals import RefusedError
from tests import factories
from tests.factories import DATACENTER, LEAF_KINDS, TRUST_DOMAIN, WEB

OTHER = f"spiffe://{TRUST_DOMAIN}/ns/default/dc/{DATACENTER}/svc/db"
UNIFORM = x509.UniformResourceIdentifier
BY_OPENSSL = b"""-----BEGIN CERTIFICATE REQUEST-----
MIIBKTCB0QIBADAAMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE3OAHJNavCiom
/CMLb0U3jtY/+QHuIk22yCYsWRZPcXzdmM2njqgK2QSgniJL8oYsj7zPZ612yb/E
vQ5n+kDJtKBvMG0GCSqGSIb3DQEJDjFgMF4wXAYDVR0RAQH/BFIwUIZOc3BpZmZl
Oi8vMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1LmNvbnN1bC9u
cy9kZWZhdWx0L2RjL2RjMS9zdmMvd2ViMAoGCCqGSM49BAMCA0cAMEQCIBFDwYXg
JNswZf5GG64d4gjj8BkwsoN32q9LzfK8/rQwAiBC2mL5L4RsGzHohi3s5A9xvRED
lEYPV8SMyJ0k63+47A==
-----END CERTIFICATE REQUEST-----
"""  # openssl req -new -subj / -addext "subjectAltName=critical,URI:$WEB"
BY_GO = b"""-----BEGIN CERTIFICATE REQUEST-----
MIIBKjCB0QIBADAAMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDjtb4uIKNuUb
mQjk7JXmD8L4H4KQkWdxZk2rn+zLElHqOf5DYcyUukTvu+gVcgZ1z+yvUwc+UEHr
XE/FQAsqSqBvMG0GCSqGSIb3DQEJDjFgMF4wXAYDVR0RAQH/BFIwUIZOc3BpZmZl
Oi8vMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1LmNvbnN1bC9u
cy9kZWZhdWx0L2RjL2RjMS9zdmMvd2ViMAoGCCqGSM49BAMCA0gAMEUCIQD6Ov4H
dJDyrpkd0fwjG15kuBfrMO3q/tWcJ1BSp1EuoAIgRYp1hzPblPpY/7Sy4KOWzdsf
S46o9LyDaOYIbKocOjU=
-----END CERTIFICATE REQUEST-----
"""  # x509.CreateCertificateRequest with a critical SAN extension, as Consul's agents do


def asker(
    identity: str = WEB,
    *,
    kind: IdentityKind = "service",
    name: str = "web",
    allowed: AllowedNames | None = None,
) -> Asker:
    return Asker(
        identity=identity,
        kind=kind,
        name=name,
        trust_domain=TRUST_DOMAIN,
        datacenter=DATACENTER,
        allowed=allowed or AllowedNames(),
    )


def check(request: bytes, who: Asker | None = None) -> CheckedCsr:
    return csr.check(request, who or asker())


def refusal(request: bytes, who: Asker | None = None) -> tuple[RefusalCode, str]:
    with pytest.raises(RefusedError) as refused:
        check(request, who)
    return refused.value.code, refused.value.message


# --- reading


def test_a_request_is_read_from_pem_and_from_der() -> None:
    request = factories.csr()

    assert csr.read(request) == request
    assert csr.read(factories.pem_of(request)) == request
    assert csr.read(factories.pem_of(request).replace(b"\n", b"\r\n")) == request
    assert csr.read(b"Certificate Request:\n  Data:\n" + factories.pem_of(request)) == request


def pem_without(old: bytes, new: bytes = b"") -> bytes:
    pem = factories.csr_pem()
    assert old in pem
    return pem.replace(old, new)


NO_PEM = "no PEM-encoded data found"
NEITHER = 'no signing request: send PEM, DER, or JSON {"csr": PEM, "request_id": ID}'
WRONG_TYPE = "first PEM-block should be CERTIFICATE REQUEST type"
NOT_WHOLE = "the PEM block is not whole, or something follows it"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", NEITHER),
        (b" \n", NEITHER),
        (b"\x7fELF\0\0", NEITHER),
        (b"hello", NO_PEM),
        (b"{}", NO_PEM),
        (b"x-----BEGIN CERTIFICATE REQUEST-----\n", NO_PEM),
        (factories.pem_of(b"x", "CERTIFICATE"), WRONG_TYPE),
        (factories.pem_of(b"x", "NEW CERTIFICATE REQUEST"), WRONG_TYPE),
        (factories.pem_of(b"x", "CERTIFICATE") + factories.csr_pem(), WRONG_TYPE),
        (pem_without(b"-----END CERTIFICATE REQUEST-----"), NOT_WHOLE),
        (pem_without(b"END CERTIFICATE REQUEST", b"END CERTIFICATE"), NOT_WHOLE),
        (factories.csr_pem() * 2, NOT_WHOLE),
        (factories.csr_pem() + b"x", NOT_WHOLE),
        (pem_without(b"\n", b"\nProc-Type: 4,ENCRYPTED\n"), NOT_WHOLE),
    ],
)
def test_what_is_not_one_pem_request_is_malformed(body: bytes, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        csr.read(body)

    assert (refused.value.code, refused.value.message) == ("malformed", message)


@pytest.mark.parametrize("body", [b"AA=A", b"A", b"===="])
def test_a_pem_block_that_is_not_base64_is_malformed(body: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"\n-----END CERTIFICATE REQUEST-----"
    with pytest.raises(RefusedError, match="not base64") as refused:
        csr.read(pem)

    assert refused.value.code == "malformed"


@pytest.mark.parametrize("start", [b"0", b"-----BEGIN CERTIFICATE REQUEST-----\n"])
def test_a_request_over_64_kib_is_refused_unread(start: bytes) -> None:
    body = start.ljust(64 * 1024, b"A")
    assert refusal(body)[0] == "malformed"
    for over in (lambda: csr.read(body + b"A"), lambda: check(body + b"A")):
        with pytest.raises(RefusedError) as refused:
            over()
        assert refused.value.code == "too_large"


@given(st.binary(max_size=400) | st.binary(max_size=100).map(b"-----BEGIN ".__add__))
def test_reading_any_bytes_ends_in_der_or_a_refusal(body: bytes) -> None:
    try:
        check(csr.read(body))
    except RefusedError as refused:
        assert refused.code == "malformed"  # noqa: PT017 - both ways out are right
    else:
        pytest.fail("random bytes were taken for a signing request")


# --- what is accepted


@pytest.mark.parametrize("kind", LEAF_KINDS)
def test_each_kind_of_leaf_key_is_accepted(kind: str) -> None:
    key = factories.ca_key(kind)
    checked = check(factories.csr(key=key))

    assert checked.spki == certificates.spki_of(key.public_key())
    assert checked.key_id == certificates.key_id(key.public_key())


@pytest.mark.parametrize("pem", [BY_OPENSSL, BY_GO], ids=["openssl", "go"])
def test_a_request_that_others_wrote_is_accepted(pem: bytes) -> None:
    request = csr.read(pem)

    assert check(request) == CheckedCsr(
        spki=request[12:103],
        key_id=hashlib.sha256(request[12:103]).hexdigest(),
        csr_sha256=hashlib.sha256(request).hexdigest(),
    )


def test_subject_and_other_extensions_are_ignored() -> None:
    extensions = [
        (x509.BasicConstraints(ca=True, path_length=3), True),
        (x509.ExtendedKeyUsage([x509.OID_CODE_SIGNING]), False),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"?"), True),
    ]
    request = factories.csr(common_name="db", critical=False, extensions=extensions)

    assert check(request).spki == check(factories.csr()).spki


@pytest.mark.parametrize("name", ["web.v1", "a b", "a/b", "naïve", "100%", "x~y", "日本"])
def test_a_name_with_any_characters_is_accepted_in_its_one_form(name: str) -> None:
    identity = factories.service_uri(name)

    assert check(factories.csr(uri=identity), asker(identity)).spki == check(factories.csr()).spki


# --- what is refused


@pytest.mark.parametrize(
    "kind",
    [
        *("p224", "p521", "secp256k1", "brainpool256", "rsa1024", "rsa4104", "rsa2048e3"),
        *("ed25519", "ed448", "dsa"),
    ],
)
def test_every_other_kind_of_key_is_refused(kind: str) -> None:
    code, message = refusal(factories.csr(key=factories.leaf_key(kind)))

    assert code == "key_not_allowed"
    assert message.startswith("keys are EC P-256 or P-384, or RSA 2048 to 4096")


def test_a_huge_rsa_key_is_refused_before_its_signature_is_looked_at() -> None:
    """Failure F19: the signature here is wrong, and nobody spends the time to find out."""
    modulus = der.tlv(der.INTEGER, ((1 << 400_000) + 1).to_bytes(50_001, "big"))
    key = der.tlv(der.SEQUENCE, modulus + bytes.fromhex("0203010001"))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption
    spki = der.tlv(der.SEQUENCE, algorithm + der.tlv(der.BIT_STRING, b"\0" + key))
    info = der.tlv(der.SEQUENCE, bytes.fromhex("0201003000") + spki + bytes.fromhex("a000"))
    request = certificates.assemble(info, b"\1" * 256, "rsa")

    assert refusal(request)[0] == "key_not_allowed"


AGENT = f"spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/n1"
GATEWAY = f"spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc1"
SERVER = f"spiffe://{TRUST_DOMAIN}/agent/server/dc/dc1"

EVERY_KIND = [
    asker(),
    asker(AGENT, kind="agent", name="n1"),
    asker(GATEWAY, kind="gateway", name=""),
    asker(SERVER, kind="server", name=""),
]


@pytest.mark.parametrize("who", EVERY_KIND, ids=lambda who: who.kind)
def test_h8_who_asks_shows_that_the_key_is_theirs_on_every_path(who: Asker) -> None:
    """H8: Consul never looks at a CSR's own signature."""
    good = x509.load_der_x509_csr(factories.csr(uri=who.identity))
    stolen = certificates.assemble(
        good.tbs_certrequest_bytes,
        factories.sign_with(factories.ca_key(number=7), good.tbs_certrequest_bytes),
        "ec",
    )

    no = "CSR signature does not verify with its own key"
    assert refusal(stolen, who) == ("bad_signature", no)
    assert check(factories.csr(uri=who.identity), who).dns == ()


def test_a_signature_of_another_algorithm_than_the_keys_is_refused() -> None:
    good = x509.load_der_x509_csr(factories.csr())
    confused = certificates.assemble(good.tbs_certrequest_bytes, good.signature, "rsa")

    assert refusal(confused)[0] == "bad_signature"


def test_a_signature_over_a_short_hash_is_refused() -> None:
    weak = factories.csr(digest=hashes.SHA224())

    assert refusal(weak) == ("bad_signature", "CSR signature needs SHA-256, SHA-384 or SHA-512")


DNS = x509.DNSName("web.example")
MAIL = x509.RFC822Name("a@example.com")
ADDRESS = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
OID = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
OTHER_NAME = x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
DIRECTORY = x509.DirectoryName(x509.Name([]))


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        ([], "uri_count", "CSR SAN contains an invalid number of URIs: 0"),
        ([DNS], "uri_count", "CSR SAN contains an invalid number of URIs: 0"),
        ([UNIFORM(WEB)] * 2, "uri_count", "CSR SAN contains an invalid number of URIs: 2"),
        (
            [UNIFORM(WEB), UNIFORM(OTHER), MAIL],
            "uri_count",
            "CSR SAN contains an invalid number of URIs: 2",
        ),
        (
            [UNIFORM(OTHER), MAIL, DNS],
            "email_san",
            "CSR SAN does not allow specifying email addresses",
        ),
        *(
            (
                [name, UNIFORM(WEB)],
                "san_not_allowed",
                "CSR SAN allows a URI, DNS names and addresses only",
            )
            for name in (OID, OTHER_NAME, DIRECTORY)
        ),
        *(
            (
                [name, UNIFORM(WEB)],
                "san_not_allowed",
                (
                    f"CSR SAN {name.value} is not allowed for service web: "
                    "the CA's configuration says which names are"
                ),
            )
            for name in (DNS, ADDRESS)
        ),
    ],
)
def test_names_beside_the_one_uri_are_refused_in_consuls_order(
    names: list[x509.GeneralName], code: RefusalCode, message: str
) -> None:
    assert refusal(factories.csr(names=names)) == (code, message)


@pytest.mark.parametrize("who", EVERY_KIND, ids=lambda who: who.kind)
def test_h18_exactly_one_uri_and_no_mail_address_on_every_path(who: Asker) -> None:
    """H18: Consul's path for agents does not count them, and its provider copies all (12)."""
    mine = UNIFORM(who.identity)
    count = "CSR SAN contains an invalid number of URIs"

    assert refusal(factories.csr(names=[mine, mine]), who) == ("uri_count", f"{count}: 2")
    for first, second in ((mine, UNIFORM(OTHER)), (UNIFORM(OTHER), mine)):
        assert refusal(factories.csr(names=[first, second]), who) == ("uri_count", f"{count}: 2")
    assert refusal(factories.csr(names=[DNS]), who) == ("uri_count", f"{count}: 0")
    assert refusal(factories.csr(names=[]), who)[0] == "uri_count"
    assert refusal(factories.csr(names=[mine, MAIL]), who) == (
        "email_san",
        "CSR SAN does not allow specifying email addresses",
    )


def test_h8_dns_names_and_addresses_are_certified_as_the_policy_allows_and_never_dropped() -> None:
    """H8: Consul copies whatever DNS and IP names are asked for."""
    allowed = AllowedNames(dns=("{name}.example", "*.web.example"), ip=("127.0.0.0/8", "::1"))
    names = [
        x509.DNSName("WEB.example"),
        x509.DNSName("a.web.example"),
        x509.DNSName("web.example"),
        x509.IPAddress(ipaddress.ip_address("::1")),
        ADDRESS,
        UNIFORM(WEB),
    ]

    checked = check(factories.csr(names=names), asker(allowed=allowed))

    assert checked.dns == ("web.example", "a.web.example")
    assert checked.ip == ("::1", "127.0.0.1")
    for other in (
        x509.DNSName("api.example"),
        x509.DNSName("web.example."),
        x509.DNSName("b.a.web.example"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
    ):
        request = factories.csr(names=[*names, other])
        assert refusal(request, asker(allowed=allowed))[0] == "san_not_allowed"


def test_so_many_names_are_not_read() -> None:
    names = [UNIFORM(WEB), *(x509.DNSName(f"{i}.example") for i in range(csr.NAMES_MAX))]
    allowed = AllowedNames(dns=("*.example",))

    assert refusal(factories.csr(names=names), asker(allowed=allowed))[0] == "san_not_allowed"
    assert len(check(factories.csr(names=names[:-1]), asker(allowed=allowed)).dns) == 31


@pytest.mark.parametrize("who", EVERY_KIND[1:], ids=lambda who: who.kind)
def test_12_every_kind_of_identity_is_certified_for_itself_only(who: Asker) -> None:
    """12. AuthorizeAndSignCertificate: each kind by its own right, the signing URI never."""
    assert check(factories.csr(uri=who.identity), who).dns == ()
    for other in {WEB, AGENT, GATEWAY, SERVER, f"spiffe://{TRUST_DOMAIN}"} - {who.identity}:
        assert refusal(factories.csr(uri=other), who)[0] == "identity_mismatch"
    elsewhere = who.identity.replace("dc1", "dc2")
    assert refusal(factories.csr(uri=elsewhere), who)[0] in {
        "wrong_datacenter",
        "wrong_trust_domain",
        "identity_mismatch",
    }


@pytest.mark.parametrize("host", ["dummy.trustdomain", "x", TRUST_DOMAIN.upper()])
def test_an_agents_trust_domain_is_replaced_by_ours(host: str) -> None:
    """Agents ask before they know it (Consul, section 2.5, step 7)."""
    agent = asker(AGENT, kind="agent", name="n1")

    taken = check(factories.csr(uri=AGENT.replace(TRUST_DOMAIN, host)), agent)

    assert taken.key_id == check(factories.csr()).key_id
    for other in ("u@h.x", f"{host}?q", f"{host}#f"):
        asked = AGENT.replace(TRUST_DOMAIN, other)
        assert refusal(factories.csr(uri=asked), agent)[0] != "internal"
    wrong = AGENT.replace(TRUST_DOMAIN, host).replace("/n1", "/n2")
    assert refusal(factories.csr(uri=wrong), agent)[0] in {
        "wrong_trust_domain",
        "identity_mismatch",
    }


def uri(*, td: str = TRUST_DOMAIN, dc: str = DATACENTER, name: str = "web") -> str:
    return f"spiffe://{td}/ns/default/dc/{dc}/svc/{name}"


FORMAT = "SPIFFE ID is not in the expected format: "
KINDS = "SPIFFE ID in CSR must be a service, mesh-gateway, or agent ID"
FOREIGN = "SPIFFE ID in CSR from a different"


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ("https://example.com", "identity_mismatch", "SPIFFE ID must have 'spiffe' scheme"),
        (f"{WEB}/x", "identity_mismatch", f"{FORMAT}{WEB}/x"),
        (f"spiffe://{TRUST_DOMAIN}", "identity_mismatch", KINDS),
        (f"spiffe://{TRUST_DOMAIN}/agent/server/dc/dc1", "identity_mismatch", KINDS),
        (uri(dc="dc2"), "wrong_datacenter", f"{FOREIGN} datacenter: dc2, we are dc1"),
        (uri(dc="dc2", td="x.y"), "wrong_datacenter", f"{FOREIGN} datacenter: dc2, we are dc1"),
        (
            uri(td="x.consul"),
            "wrong_trust_domain",
            f"{FOREIGN} trust domain: x.consul, we are {TRUST_DOMAIN}",
        ),
        (
            f"spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc2",
            "wrong_datacenter",
            f"{FOREIGN} datacenter: dc2, we are dc1",
        ),
        (OTHER, "identity_mismatch", f"SPIFFE ID in CSR is {OTHER}, not {WEB}"),
    ],
)
def test_a_uri_that_is_not_ours_is_refused_in_consuls_order_and_words(
    asked: str, code: RefusalCode, message: str
) -> None:
    assert refusal(factories.csr(uri=asked)) == (code, message)


@pytest.mark.parametrize(
    "asked",
    [
        *(WEB.replace("spiffe:", "SPIFFE:"), uri(td=TRUST_DOMAIN.upper()), f"{WEB}?", f"{WEB}#"),
        *(f"{WEB}?a=b", f"{WEB}#a", f"{WEB}/", uri(name="w%65b"), uri(name="Web")),
        *(uri(dc="%64c1"), WEB.replace("/svc/", "//svc/"), WEB.replace("/svc/", "/./svc/")),
        *(uri(td=f"u@{TRUST_DOMAIN}"), uri(td=f"{TRUST_DOMAIN}:443"), uri(td=f"{TRUST_DOMAIN}.")),
        *(WEB.replace("/ns/default", "/ns/other"), WEB.replace("/ns/", "/ap/default/ns/")),
        *(f"spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/web", f" {WEB}", f"{WEB} ", f"{WEB}\n"),
        *(f"spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc1", f"{WEB}\x00", "spiffe:" + WEB),
    ],
)
def test_another_way_to_write_the_same_name_is_refused(asked: str) -> None:
    code, _ = refusal(factories.csr(uri=asked))

    assert code in {"identity_mismatch", "wrong_trust_domain"}


def test_two_lists_of_names_are_refused() -> None:
    san = factories.san_extension
    assert check(factories.raw_csr(san(WEB.encode()))).spki == check(factories.csr()).spki

    for request in (
        factories.raw_csr(san(WEB.encode()), san(WEB.encode())),
        factories.raw_csr(san(WEB.encode()), san(OTHER.encode())),
        factories.raw_csr(san(WEB.encode()), attributes=[factories.EXTENSION_REQUEST] * 2),
        factories.raw_csr(
            san(WEB.encode()),
            attributes=[factories.EXTENSION_REQUEST, factories.MICROSOFT_EXTENSION_REQUEST],
        ),
        factories.raw_csr(
            san(WEB.encode()),
            attributes=[factories.MICROSOFT_EXTENSION_REQUEST, factories.EXTENSION_REQUEST],
        ),
    ):
        assert refusal(request)[0] == "malformed"


@pytest.mark.parametrize("tail", [b"\xc3\xa9", b"\xff", b"\x80"])
def test_a_uri_that_is_not_ascii_is_refused(tail: bytes) -> None:
    assert refusal(factories.raw_csr(factories.san_extension(WEB.encode() + tail)))[0] in {
        "malformed",
        "identity_mismatch",
    }


def test_a_request_of_another_version_is_refused() -> None:
    assert refusal(factories.raw_csr(factories.san_extension(WEB.encode()), version=1))[0] == (
        "malformed"
    )


def test_a_compressed_point_is_refused() -> None:
    """The certificate would carry other bytes than the request did."""
    good = certificates.spki_of(factories.ca_key().public_key())
    point = good[-64:]
    compressed = bytes((2 + point[-1] % 2,)) + point[:32]
    spki = der.tlv(der.SEQUENCE, good[2:23] + der.tlv(der.BIT_STRING, b"\0" + compressed))
    tbs = x509.load_der_x509_csr(factories.csr(key=factories.ca_key())).tbs_certrequest_bytes
    content = tbs[4:] if tbs[1] == 0x82 else tbs[3:]
    info = der.tlv(der.SEQUENCE, content.replace(good, spki))
    request = factories.signed(info, factories.ca_key())

    assert refusal(request)[0] == "malformed"


@given(st.text(st.characters(codec="latin-1"), max_size=3000))
@settings(deadline=None)
def test_a_refusal_is_short_and_plain_whatever_the_request_says(text: str) -> None:
    """It goes into a NATS header and into the ledger (failure F21)."""
    asked = f"spiffe://{TRUST_DOMAIN}/ns/default/dc/".encode() + text.encode() + b"/svc/web"
    _, message = refusal(factories.raw_csr(factories.san_extension(asked)))

    assert len(message) <= csr.MESSAGE_MAX
    assert message.isascii()
    assert message.isprintable()


# --- properties


@given(
    st.lists(
        st.sampled_from(
            [UNIFORM(WEB), UNIFORM(OTHER), UNIFORM(uri(td="x.consul")), DNS, MAIL, ADDRESS, OID]
        ),
        max_size=5,
    )
)
@settings(deadline=None)
def test_only_the_one_name_alone_is_ever_accepted(names: list[x509.GeneralName]) -> None:
    """Failures F1 and F13."""
    try:
        check(factories.csr(names=names))
        accepted = True
    except RefusedError:
        accepted = False

    assert accepted == (names == [UNIFORM(WEB)])


def outcomes(requests: list[bytes]) -> list[CheckedCsr]:
    """Return what was accepted; anything raised but a refusal fails the test."""
    accepted = []
    for request in requests:
        try:
            accepted.append(check(request))
        except RefusedError:
            continue
    return accepted


def flips(data: bytes) -> list[bytes]:
    return [
        data[:place] + bytes((data[place] ^ (1 << bit),)) + data[place + 1 :]
        for place in range(len(data))
        for bit in range(8)
    ]


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048"])
def test_no_flipped_bit_makes_a_request_for_something_else(kind: str) -> None:
    """Failure F2: whatever is accepted is the very key that the request was made with."""
    request = factories.csr(key=factories.ca_key(kind))
    spki = check(request).spki

    assert {checked.spki for checked in outcomes(flips(request))} <= {spki}


def test_no_flipped_bit_under_a_good_signature_is_read_as_another_name_or_key() -> None:
    """A sender may sign anything: what is accepted still holds the one name, and its own key."""
    key = factories.ca_key()
    info = x509.load_der_x509_csr(factories.csr(key=key)).tbs_certrequest_bytes
    requests = [factories.signed(changed, key) for changed in flips(info)]

    assert {checked.spki for checked in outcomes(requests)} <= {
        certificates.spki_of(key.public_key())
    }
    for request in requests:
        if outcomes([request]):
            assert request.count(b"\x86" + bytes((len(WEB),)) + WEB.encode()) == 1


def test_a_request_that_is_cut_or_goes_on_is_refused() -> None:
    request = factories.csr()
    damaged = [request[:length] for length in range(len(request))]
    damaged += [request + b"\0", request + request, b"\x30\x80" + request[4:] + b"\0\0"]

    assert outcomes(damaged) == []


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_damage_ends_in_a_refusal_or_the_same_key(data: st.DataObject) -> None:
    request = bytearray(csr.read(BY_OPENSSL))
    spki = check(bytes(request)).spki
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(request)))
        end = data.draw(st.integers(start, min(len(request), start + 8)))
        request[start:end] = data.draw(st.binary(max_size=8))

    assert {checked.spki for checked in outcomes([bytes(request)])} <= {spki}
