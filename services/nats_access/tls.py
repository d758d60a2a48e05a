"""The transport CA: what servers and clients of NATS know each other by. Never the mesh's CA."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.keys.kek import KeyEncryptionKey
from services.nats_access import addresses, route
from services.nats_access.files import write_atomically
from services.nats_access.seeds import seal, unseal
from services.nats_access.server_config import TlsFiles

CA_YEARS: Final = 10
SERVER_DAYS: Final = 397  # what TLS libraries accept of a server at most
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
RENEW_BEFORE: Final = timedelta(days=60)  # a server that is started later gets a new certificate

_BACKDATED: Final = timedelta(hours=1)  # clients' clocks may be behind


def files(folder: Path) -> TlsFiles:
    """Return where the files are."""
    return TlsFiles(
        ca=folder / "ca.pem",
        certificate=folder / "server.pem",
        key=folder / "server-key.pem",
    )


def ensure(
    folder: Path,
    *,
    listen: str,
    kek: KeyEncryptionKey,
    datacenter: str,
    now: datetime,
    advertise: Sequence[str] = (),
) -> TlsFiles:
    """Make what is missing: the CA, and a certificate of this machine's server that lasts.

    The certificate names localhost, the loopback addresses, this machine, `listen` (a wildcard: all
    addresses of this machine) and whatever `advertise` adds; one that does not, or that ends soon,
    is made anew. The CA's key is sealed. Raises SeedError and WrongKeyError.
    """
    found = files(folder)
    sealed = folder / "transport-ca.sealed"
    if not found.ca.exists() or not sealed.exists():
        _make_ca(found.ca, sealed, kek=kek, datacenter=datacenter, now=now)
    names = _names(listen, advertise)
    if not _serves(found, names, now):
        key = serialization.load_der_private_key(unseal(sealed, kek), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        _make_server(found, key, names, now)
    return found


def _make_ca(
    certificate: Path, sealed: Path, *, kek: KeyEncryptionKey, datacenter: str, now: datetime
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"caledger {datacenter} NATS transport CA")
    builder = _builder(name, name, key, now, timedelta(days=365 * CA_YEARS))
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signed = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: until the certificate is there too, a crash makes both anew.
    seal(sealed, _private_der(key), kek)
    write_atomically(certificate, signed.public_bytes(serialization.Encoding.PEM))


def _make_server(
    found: TlsFiles,
    ca_key: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    now: datetime,
) -> None:
    ca = x509.load_pem_x509_certificate(found.ca.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    # Servers of a cluster are each other's clients.
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signed = (
        _builder(_name("caledger nats-server"), ca.subject, key, now, timedelta(days=SERVER_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),  # nats-server reads it at every start
    )
    write_atomically(found.key, key_pem, mode=0o600)
    write_atomically(found.certificate, signed.public_bytes(serialization.Encoding.PEM))


def _serves(found: TlsFiles, names: Sequence[x509.GeneralName], now: datetime) -> bool:
    """Say whether the server's certificate is there, fits its key, names all, and lasts."""
    if not found.certificate.exists() or not found.key.exists():
        return False
    certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    key = serialization.load_pem_private_key(found.key.read_bytes(), password=None)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        certificate.public_key() == key.public_key()
        and set(names) <= set(san)
        and now < certificate.not_valid_after_utc - RENEW_BEFORE
    )


def _names(listen: str, advertise: Sequence[str]) -> list[x509.GeneralName]:
    own = addresses.host_names(in_full=not route.is_loopback(listen))
    names = (*LOOPBACK, listen, *advertise, *own)
    found = dict.fromkeys(_name_of(name) for name in names)
    wildcards = [x509.IPAddress(ipaddress.ip_address(every)) for every in ("0.0.0.0", "::")]  # noqa: S104
    if found.keys() & wildcards:
        found |= dict.fromkeys(x509.IPAddress(each) for each in addresses.local_addresses())
    return [name for name in found if name not in wildcards]


def _name_of(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lasts: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lasts)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _private_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
