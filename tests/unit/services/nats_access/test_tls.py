from __future__ import annotations

import ipaddress
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from services.keys.kek import KeyEncryptionKey
from services.nats_access import tls
from services.nats_access.addresses import host_names, local_addresses
from services.nats_access.seeds import WrongKeyError
from services.nats_access.server_config import TlsFiles

KEK = KeyEncryptionKey(bytes(range(32)))
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def ensure(folder: Path, *, listen: str = "127.0.0.1", now: datetime = NOW) -> TlsFiles:
    return tls.ensure(folder, listen=listen, kek=KEK, datacenter="dc1", now=now)


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_the_server_is_vouched_for_by_the_transport_ca(tmp_path: Path) -> None:
    files = ensure(tmp_path)

    checked = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())),
         "-CAfile", files.ca, "-purpose", "sslserver", "-verify_ip", "127.0.0.1",
         files.certificate],
        capture_output=True,
        check=False,
        text=True,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stderr


def test_the_certificate_names_this_machine_and_where_it_listens(tmp_path: Path) -> None:
    files = ensure(tmp_path, listen="192.0.2.7")

    san = certificate(files.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert {str(address) for address in san.value.get_values_for_type(x509.IPAddress)} == {
        "127.0.0.1",
        "::1",
        "192.0.2.7",
    }
    assert {"localhost", socket.gethostname()} <= set(san.value.get_values_for_type(x509.DNSName))


def test_keys_are_their_owners_only_and_the_cas_is_sealed(tmp_path: Path) -> None:
    files = ensure(tmp_path)

    assert files.key.stat().st_mode & 0o777 == 0o600
    private = [file for file in tmp_path.iterdir() if b"PRIVATE KEY" in file.read_bytes()]
    assert private == [files.key]


def test_a_second_time_nothing_changes(tmp_path: Path) -> None:
    ensure(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    ensure(tmp_path, now=NOW + timedelta(days=300))

    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("days", "listen"), [(350, "127.0.0.1"), (0, "192.0.2.7"), (0, "ca.test")])
def test_a_certificate_that_ends_or_names_too_little_is_made_anew(
    tmp_path: Path, days: int, listen: str
) -> None:
    files = ensure(tmp_path)
    ca, before = files.ca.read_bytes(), files.certificate.read_bytes()

    ensure(tmp_path, listen=listen, now=NOW + timedelta(days=days))

    assert files.certificate.read_bytes() != before
    assert files.ca.read_bytes() == ca


@pytest.mark.parametrize("lost", ["server.pem", "server-key.pem"])
def test_half_of_a_pair_is_completed(tmp_path: Path, lost: str) -> None:
    files = ensure(tmp_path)
    (tmp_path / lost).unlink()

    ensure(tmp_path)

    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(files.key.read_bytes(), password=None)
    assert certificate(files.certificate).public_key() == key.public_key()


def test_the_wrong_key_makes_no_certificate_and_changes_nothing(tmp_path: Path) -> None:
    ensure(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    with pytest.raises(WrongKeyError):
        tls.ensure(
            tmp_path, listen="192.0.2.7", kek=KeyEncryptionKey(bytes(32)), datacenter="dc1", now=NOW
        )

    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
def test_a_server_on_every_address_is_known_by_each_and_by_what_is_advertised(
    tmp_path: Path, listen: str
) -> None:
    more = ("ca.example", "198.51.100.7")
    files = tls.ensure(tmp_path, listen=listen, kek=KEK, datacenter="dc1", now=NOW, advertise=more)

    san = certificate(files.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    found = set(san.value.get_values_for_type(x509.IPAddress))
    assert found == {*map(ipaddress.ip_address, ("127.0.0.1", "::1", more[1])), *local_addresses()}
    names = set(san.value.get_values_for_type(x509.DNSName))
    assert names == {"localhost", "ca.example", *host_names(in_full=True)}
