"""What a signed service leaves on disk: everything together, or nothing."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from projections.bundle import Roots
from services.cli.common import CliError
from services.cli.signing_files import SigningFiles
from services.issued import IssuedCert
from services.pki import pem
from tests import factories

ROOT = factories.root()


def bundle() -> bytes:
    root = factories.bundle_root("id", pem.encode(ROOT))
    roots = Roots(
        active_root_id="id", trust_domain=factories.TRUST_DOMAIN, roots=(root,), ledger_sequence=2
    )
    return msgspec.json.encode(roots)


def reply(csr: str) -> bytes:
    """Answer as the CA does, whatever key the CSR has."""
    key = x509.load_pem_x509_csr(csr.encode()).public_key()
    leaf = leaf_for(key)
    issued = IssuedCert(
        serial_number="01",
        cert_pem=pem.encode(leaf) + pem.encode(factories.intermediate()),
        service="web",
        service_uri=factories.WEB,
        valid_after=factories.NOW,
        valid_before=factories.NOW,
        create_index=9,
        modify_index=9,
        ledger_sequence=9,
        event_id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
    )
    return msgspec.json.encode(issued)


def leaf_for(key: object) -> bytes:
    from services.pki import certificates, leaf

    template = leaf.LeafTemplate(factories.intermediate())
    tbs = template.tbs(
        serial=factories.SERIAL,
        spki=certificates.spki_of(key),  # type: ignore[arg-type]  # EC, as made
        key_id=certificates.key_id(key),  # type: ignore[arg-type]  # EC, as made
        uri=factories.WEB,
        not_before=factories.NOW,
        not_after=factories.NOW,
    )
    return factories.signed(tbs, factories.ca_key(number=1))


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_the_key_is_on_disk_before_anybody_is_asked(tmp_path: Path) -> None:
    files = SigningFiles("web", tmp_path)

    files.pending("R1", bundle(), "dc1", "p256")

    key = tmp_path / ".web-R1-key.pem"
    assert b"PRIVATE KEY" in key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not files.key.exists()


def test_the_csr_asks_for_one_uri_and_nothing_else(tmp_path: Path) -> None:
    csr = x509.load_pem_x509_csr(
        SigningFiles("web", tmp_path).pending("R1", bundle(), "dc1", "p256").encode()
    )

    san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in san] == [factories.WEB]
    assert len(csr.subject) == 0
    assert len(csr.extensions) == 1


def test_asking_again_under_the_same_id_sends_the_same_csr(tmp_path: Path) -> None:
    first = SigningFiles("web", tmp_path).pending("R1", bundle(), "dc1", "p256")
    again = SigningFiles("web", tmp_path).pending("R1", bundle(), "dc1", "p256")
    other = SigningFiles("web", tmp_path).pending("R2", bundle(), "dc1", "p256")

    assert first == again != other


def test_a_certificate_comes_with_its_key_and_the_roots(tmp_path: Path) -> None:
    files = SigningFiles("web", tmp_path)
    csr = files.pending("R1", bundle(), "dc1", "p256")
    key = (tmp_path / ".web-R1-key.pem").read_bytes()

    files.install("R1", csr, reply(csr), bundle())

    assert names(tmp_path) == {"web.pem", "web-key.pem", "web-roots.pem"}
    assert files.key.read_bytes() == key
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert files.roots.read_text() == pem.encode(ROOT)
    assert files.certificate.read_text().count("BEGIN CERTIFICATE") == 2


def test_a_certificate_for_another_key_is_not_taken(tmp_path: Path) -> None:
    files = SigningFiles("web", tmp_path)
    csr = files.pending("R1", bundle(), "dc1", "p256")
    other = factories.csr_pem().decode()

    with pytest.raises(CliError, match="another key"):
        files.install("R1", csr, reply(other), bundle())

    assert names(tmp_path) == {".web-R1-key.pem", ".web-R1.csr"}


def test_a_renewal_keeps_the_old_pair_until_the_new_one_is_whole(tmp_path: Path) -> None:
    files = SigningFiles("web", tmp_path)
    old_csr = files.pending("R1", bundle(), "dc1", "p256")
    files.install("R1", old_csr, reply(old_csr), bundle())
    old = (files.key.read_bytes(), files.certificate.read_bytes())

    new_csr = files.pending("R2", bundle(), "dc1", "p256")
    assert (files.key.read_bytes(), files.certificate.read_bytes()) == old
    files.install("R2", new_csr, reply(new_csr), bundle())

    assert files.key.read_bytes() != old[0]
    assert files.certificate.read_bytes() != old[1]
    assert names(tmp_path) == {"web.pem", "web-key.pem", "web-roots.pem"}


def key_of(folder: Path, name: str) -> object:
    """Return the public key of a file, to compare."""
    content = (folder / name).read_bytes()
    if b"PRIVATE" in content:
        return serialization.load_pem_private_key(content, None).public_key()
    return x509.load_pem_x509_certificate(content).public_key()


def test_a_renewal_that_was_cut_off_between_key_and_certificate_is_finished_by_the_next_run(
    tmp_path: Path,
) -> None:
    files = SigningFiles("web", tmp_path)
    csr = files.pending("R1", bundle(), "dc1", "p256")
    (tmp_path / "web.pem" / "full").mkdir(parents=True)  # nothing can take its place
    with pytest.raises(OSError, match=r"web\.pem"):
        files.install("R1", csr, reply(csr), bundle())
    assert files.key.exists()
    shutil.rmtree(files.certificate)

    SigningFiles("web", tmp_path).finish()

    assert key_of(tmp_path, "web-key.pem") == key_of(tmp_path, "web.pem")
    assert names(tmp_path) >= {"web.pem", "web-key.pem", "web-roots.pem"}
    assert not {name for name in names(tmp_path) if name.endswith(".staged")}


def test_a_renewal_that_was_cut_off_before_it_was_ready_leaves_the_old_pair(
    tmp_path: Path,
) -> None:
    files = SigningFiles("web", tmp_path)
    csr = files.pending("R1", bundle(), "dc1", "p256")
    files.install("R1", csr, reply(csr), bundle())
    old = files.key.read_bytes(), files.certificate.read_bytes()
    (tmp_path / ".web-key.pem.staged").write_bytes(b"a key of which no certificate is ready")

    SigningFiles("web", tmp_path).finish()

    assert (files.key.read_bytes(), files.certificate.read_bytes()) == old
    assert not (tmp_path / ".web-key.pem.staged").exists()


def test_a_refused_request_leaves_nothing(tmp_path: Path) -> None:
    new, old = SigningFiles("web", tmp_path / "new"), SigningFiles("web", tmp_path)
    for files in (new, old):
        files.pending("R1", bundle(), "dc1", "p256")

        files.forget("R1")

    assert names(tmp_path) == set(), "the folder that was made for it is left"


@pytest.mark.parametrize("request_id", ["", "a b", "../x", "x" * 65])
def test_what_is_no_request_id_is_refused_before_it_is_a_file_name(
    tmp_path: Path, request_id: str
) -> None:
    with pytest.raises(CliError, match="request id"):
        SigningFiles("web", tmp_path).pending(request_id, bundle(), "dc1", "p256")


def test_a_csr_made_elsewhere_is_read_as_pem_or_der(tmp_path: Path) -> None:
    (tmp_path / "der").write_bytes(factories.csr())
    (tmp_path / "pem").write_bytes(factories.pem_of((tmp_path / "der").read_bytes()))
    files = SigningFiles("web", tmp_path)

    assert files.read_csr(tmp_path / "der") == files.read_csr(tmp_path / "pem")


@pytest.mark.parametrize("content", [b"", b"no CSR", b"\x300", factories.pem_of(b"x")])
def test_a_file_that_holds_no_csr_is_told_without_what_a_library_says(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "csr").write_bytes(content)

    with pytest.raises(CliError) as error:
        SigningFiles("web", tmp_path).read_csr(tmp_path / "csr")

    assert str(error.value) == f"{tmp_path / 'csr'} holds no CSR that can be read, PEM or DER"
