"""What `caledger sign` leaves on disk: a key, and the certificate for it.

Each file is replaced whole, and one after the other: for a moment a new key stands beside the old
certificate. A run that ends in that moment is finished by the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from events.base import REQUEST_ID
from events.leaves import IdentityKind
from events.subjects import NAMELESS_KINDS, encode_name
from projections.bundle import Roots
from services.cli.common import CliError, Exit
from services.issued import IssuedCert
from services.nats_access.files import write_atomically
from services.pki import sans, spiffe

_NAMED: Final = frozenset({"agent", "server"})  # whose CSRs have names beside the URI

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def read_reply(reply: bytes) -> IssuedCert:
    """Read the CA's answer; raises CliError."""
    try:
        return msgspec.json.decode(reply, type=IssuedCert)
    except msgspec.MsgspecError as error:
        raise CliError(f"an answer that cannot be read: {error}", Exit.FAULT) from error


def read_bundle(bundle: bytes) -> Roots:
    """Read the trust bundle; raises CliError."""
    try:
        return msgspec.json.decode(bundle, type=Roots)
    except msgspec.MsgspecError as error:
        raise CliError(f"a trust bundle that cannot be read: {error}", Exit.FAULT) from error


class SigningFiles:
    """NAME.pem, NAME-key.pem and NAME-roots.pem in one folder.

    For other kinds of identity than services NAME begins with the kind and a dot, as no service's
    does. A gateway and a server have no name, and are called after their datacenter.

    Until there is a certificate for it, a key waits beside them under the id of its request, with
    its CSR: asking again under the id has to send the very same CSR.
    """

    def __init__(
        self,
        name: str,
        out: Path | None,
        *,
        kind: IdentityKind = "service",
        datacenter: str = "",
        names: bool = True,
    ) -> None:
        self.name = name
        self.kind: IdentityKind = kind
        self._names = names
        stem = datacenter if kind in NAMELESS_KINDS else encode_name(name)  # a file name as well
        if kind != "service":
            stem = f"{kind}.{stem}"
        self._folder = out or Path(stem)
        self._is_new = not self._folder.exists()
        self._stem = stem
        self.certificate = self._folder / f"{stem}.pem"
        self.key = self._folder / f"{stem}-key.pem"
        self.roots = self._folder / f"{stem}-roots.pem"
        self.key_is_here = False  # beside the certificate that was installed

    def pending(self, request_id: str, bundle: bytes, datacenter: str, key_type: str) -> str:
        """Return the PEM CSR of a request; its key is made, and on disk, before this returns."""
        key_file, csr_file = self._pending(request_id)
        if csr_file.exists():
            return csr_file.read_text()
        key = _load_key(key_file) if key_file.exists() else _make_key(key_type)
        csr = _csr(key, self._sans(read_bundle(bundle).trust_domain, datacenter))
        write_atomically(key_file, _key_pem(key), mode=0o600)
        write_atomically(csr_file, csr)
        return csr.decode()

    def _sans(self, trust_domain: str, datacenter: str) -> list[x509.GeneralName]:
        """Return the SPIFFE id, and what Consul's agents and servers ask for beside theirs.

        As far as the CA allows it where nobody configured otherwise.
        """
        uri = spiffe.identity_id(
            self.kind, self.name, trust_domain=trust_domain, datacenter=datacenter
        )
        found: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if self._names and self.kind in _NAMED:
            allowed = getattr(sans.DEFAULT, self.kind)
            values = {"datacenter": datacenter, "trust_domain": trust_domain}
            found += [x509.DNSName(name.format(**values)) for name in allowed.dns]
            found += [x509.IPAddress(ip_address(address)) for address in allowed.ip]
        return found

    def waits(self, request_id: str) -> bool:
        """Say whether a key waits for the answer to this request; raises CliError."""
        return self.kept_csr(request_id) is not None

    def keep_csr(self, request_id: str, csr: str) -> None:
        """Keep the CSR of a request until its answer is fetched, also where its key is elsewhere.

        Raises CliError.
        """
        _, csr_file = self._pending(request_id)
        if not csr_file.exists():
            write_atomically(csr_file, csr.encode())

    def kept_csr(self, request_id: str) -> str | None:
        """Return the PEM CSR that waits for the answer to this request; raises CliError."""
        _, csr_file = self._pending(request_id)
        return csr_file.read_text() if csr_file.exists() else None

    def read_csr(self, file: Path) -> str:
        """Return a CSR made elsewhere as PEM; raises CliError."""
        try:
            content = file.read_bytes()
            load = x509.load_der_x509_csr if content[:1] == b"\x30" else x509.load_pem_x509_csr
            return load(content).public_bytes(serialization.Encoding.PEM).decode()
        except OSError as error:
            raise CliError(f"{file}: {error.strerror}", Exit.USAGE) from error
        except ValueError as error:
            raise CliError(
                f"{file} holds no CSR that can be read, PEM or DER", Exit.USAGE
            ) from error

    def install(self, request_id: str, csr: str, reply: bytes, bundle: bytes) -> None:
        """Put everything in place; raises CliError where the certificate is not for our key."""
        pem = read_reply(reply).cert_pem
        leaf = x509.load_pem_x509_certificate(pem.encode())
        if leaf.public_key() != x509.load_pem_x509_csr(csr.encode()).public_key():
            raise CliError("the certificate in the answer is for another key", Exit.FAULT)
        key_file, _ = self._pending(request_id)
        self._install(request_id, key_file if key_file.exists() else None, pem, bundle)

    def install_known(self, request_id: str, reply: bytes, bundle: bytes) -> None:
        """Put everything in place again; raises CliError where the key is not here."""
        issued = read_reply(reply)
        wanted = x509.load_pem_x509_certificate(issued.cert_pem.encode()).public_key()
        if not self.key.exists() or _public_key(self.key) != wanted:
            raise CliError(
                f"request id {request_id} has its certificate already (serial "
                f"{issued.serial_number}), and its key is not in {self._folder}: say with --out "
                "where it is, or ask under another id",
                Exit.FAULT,
            )
        self._install(request_id, self.key, issued.cert_pem, bundle)

    def _install(self, request_id: str, key_file: Path | None, pem: str, bundle: bytes) -> None:
        self.finish()
        contents = [
            (self.roots, "".join(root.root_cert for root in read_bundle(bundle).roots).encode())
        ]
        self.key_is_here = key_file is not None
        if key_file is not None:
            contents.append((self.key, key_file.read_bytes()))
        contents.append((self.certificate, pem.encode()))
        for file, content in contents:
            write_atomically(_staged(file), content, mode=0o600 if file == self.key else 0o644)
        self.finish()
        self.forget(request_id)

    def finish(self) -> None:
        """Put in place what is ready beside it; needs no space.

        The certificate is the last to be made ready: without it, what else there is is left over
        from a run that was cut off before it changed anything.
        """
        whole = _staged(self.certificate).exists()
        for file in (self.roots, self.key, self.certificate):
            aside = _staged(file)
            if not whole:
                aside.unlink(missing_ok=True)
            elif aside.exists():
                aside.replace(file)

    def forget(self, request_id: str) -> None:
        """Remove the key that waits for this request; nothing happens where there is none."""
        for file in self._pending(request_id):
            file.unlink(missing_ok=True)
        if self._is_new and self._folder.exists() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _pending(self, request_id: str) -> tuple[Path, Path]:
        if not REQUEST_ID.fullmatch(request_id):
            raise CliError("a request id has 1 to 64 of A-Z, a-z, 0-9, _ and -", Exit.USAGE)
        stem = f".{self._stem}-{request_id}"
        return self._folder / f"{stem}-key.pem", self._folder / f"{stem}.csr"


def _staged(file: Path) -> Path:
    return file.with_name(f".{file.name}.staged")


def _make_key(key_type: str) -> PrivateKey:
    match key_type:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, int(key_type.removeprefix("rsa")))


def _load_key(file: Path) -> PrivateKey:
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, PrivateKey), "we made it"
    return key


def _public_key(file: Path) -> object:
    """Return the public half of whatever key somebody put there, None where it is none."""
    try:
        return serialization.load_pem_private_key(file.read_bytes(), None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        return None


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _csr(key: PrivateKey, names: Sequence[x509.GeneralName]) -> bytes:
    """Return a PEM CSR as Consul's agents send it: no subject, one URI."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
