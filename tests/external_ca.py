"""An operator's own PKI: a trust anchor, whatever is below it, and a CA to be given to caledger."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from events.base import Struct
from services.pki import pem
from tests.factories import NOW, CaPrivateKey, ca_key, private_pem

DAY = timedelta(days=1)


class GivenCa(Struct):
    """A CA that an operator brings, its certificate first and its trust anchor last."""

    key: CaPrivateKey
    chain: tuple[bytes, ...]  # DER

    @property
    def config(self) -> dict[str, str]:
        """Return what is set of it."""
        return {
            "PrivateKey": private_pem(self.key).decode(),
            "RootCert": "".join(map(pem.encode, self.chain)),
        }

    def write(self, file: Path, **fields: str) -> Path:
        """Write the configuration that an authority is to begin with."""
        file.write_text(json.dumps({"Config": {**self.config, **fields}}))
        return file


def given_ca(
    kind: str = "p256",
    *,
    number: int = 30,
    certificates: int = 2,
    now: datetime = NOW,
    anchor_days: int = 3650,
    days: int = 3650,
    path_length: int | None = None,
) -> GivenCa:
    """Make a chain of so many certificates; with one, the CA is its own anchor.

    `path_length` is the CA's own; without it, it may sign another root across.
    """
    keys = [ca_key(number=number + place) for place in range(certificates - 1)]  # anchor first
    keys.append(ca_key(kind, number + certificates))
    chain: tuple[bytes, ...] = ()
    for place, key in enumerate(keys):
        signer, issuer = (keys[place - 1], place - 1) if place else (key, 0)
        ends = anchor_days if place == 0 and certificates > 1 else days
        below = certificates - 1 - place  # CAs of this chain below it
        length = below + 2 if place else None  # the intermediate, and a root to cross
        if below == 0 and path_length is not None:
            length = path_length
        chain = (
            _certificate(
                f"external {number}.{place}",
                key,
                (signer, f"external {number}.{issuer}"),
                path_length=length,
                life=(now - DAY, now + ends * DAY),
            ),
            *chain,
        )
    return GivenCa(key=keys[-1], chain=chain)


def given_with_path_lengths(*lengths: int | None, number: int = 60, now: datetime = NOW) -> GivenCa:
    """Make a chain of certificates with these path lengths, the anchor's first."""
    keys = [ca_key(number=number + place) for place in range(len(lengths))]
    chain: tuple[bytes, ...] = ()
    for place, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        above = max(place - 1, 0)
        made = _certificate(
            f"external {number}.{place}",
            key,
            (keys[above], f"external {number}.{above}"),
            path_length=length,
            life=(now - DAY, now + 3650 * DAY),
        )
        chain = (made, *chain)
    return GivenCa(key=keys[-1], chain=chain)


def _certificate(
    name: str,
    key: CaPrivateKey,
    by: tuple[CaPrivateKey, str],
    *,
    path_length: int | None,
    life: tuple[datetime, datetime],
) -> bytes:
    signer, issuer = by
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("encipher_only", "decipher_only", "digital_signature"),
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(life[0])
        .not_valid_after(life[1])
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
        .sign(signer, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
