"""The node's configuration as `caledger init` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from services import config
from services.node_file import ContradictionError, NodeOptions, config_file, settle, write
from tests.nats import free_port


def settled(data: Path, **options: object) -> config.NodeConfig:
    data.mkdir(exist_ok=True)
    return settle(NodeOptions(data=data, **options))  # type: ignore[arg-type]  # as they are given


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = settled(
        tmp_path,
        port=free_port(),
        datacenter="east-1",
        trust_domain="Mesh.Example",
        csr_max_per_second=12.5,
    )

    read = config.load(config_file(tmp_path))
    assert read == made
    assert read.datacenter == "east-1"
    assert read.initial.trust_domain == "mesh.example"
    assert read.initial.csr_max_per_second == 12.5
    assert read.creds_file("signer") == tmp_path / "nats" / "creds" / "signer.creds"
    assert read.keys.root == f"file:{tmp_path / 'keys' / 'root.kek'}"
    assert read.projections_file == tmp_path / "projections.sqlite"


def test_a_folder_that_was_moved_still_finds_its_files(tmp_path: Path) -> None:
    settled(tmp_path / "old", port=free_port())
    (tmp_path / "old").rename(tmp_path / "new")

    read = config.load(config_file(tmp_path / "new"))

    assert read.creds_file("signer") == tmp_path / "new" / "nats" / "creds" / "signer.creds"


def test_what_somebody_changed_in_the_file_is_kept(tmp_path: Path) -> None:
    settled(tmp_path, port=free_port())
    file = config_file(tmp_path)
    file.write_text(file.read_text().replace("lease_seconds = 3", "lease_seconds = 7"))

    again = settled(tmp_path, port=free_port())

    assert again.lease_seconds == 7


def test_where_metrics_are_is_kept_as_the_file_is_written_anew(tmp_path: Path) -> None:
    port = settled(tmp_path, port=free_port()).embedded
    file = config_file(tmp_path)
    file.write_text(f'{file.read_text()}\n[metrics]\naddress = "::1"\nbase_port = 9464\n')

    again = settled(tmp_path, port=free_port())

    write(tmp_path, again)

    assert again.embedded != port, "else it is not written anew"
    assert again.metrics == config.load(file).metrics
    assert (again.metrics.address, again.metrics.base_port) == ("::1", 9464)


def test_what_an_authority_begins_with_is_kept_as_the_file_is_written_anew(tmp_path: Path) -> None:
    settled(tmp_path, port=free_port())
    file = config_file(tmp_path)
    text = file.read_text().replace("[initial]", '[initial]\nca_config = "ca.json"', 1)
    file.write_text(text)

    write(tmp_path, settled(tmp_path, port=free_port()))

    assert 'ca_config = "ca.json"' in file.read_text()
    assert config.load(file).initial.ca_config == tmp_path / "ca.json"


def test_an_address_that_others_reach_has_tls(tmp_path: Path) -> None:
    node = settled(tmp_path, listen="0.0.0.0", port=free_port())

    assert node.embedded is not None
    assert node.embedded.tls
    assert node.nats.servers[0].startswith("tls://127.0.0.1:")
    assert node.nats.ca == tmp_path / "nats" / "tls" / "ca.pem"


def test_advertised_names_are_kept_and_added_to(tmp_path: Path) -> None:
    settled(tmp_path, listen="0.0.0.0", port=free_port(), advertise=("ca.example",))

    again = settled(tmp_path, port=free_port(), advertise=("192.0.2.7", "ca.example"))

    assert again.embedded is not None
    assert again.embedded.advertise == ("ca.example", "192.0.2.7")
    write(tmp_path, again)
    assert config.load(config_file(tmp_path)).embedded == again.embedded


@pytest.mark.parametrize(
    "options", [{"advertise": ("ca.example",)}, {"advertise": ("a b",), "tls": True}], ids=str
)
def test_a_name_that_no_certificate_would_hold_is_refused(
    tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(config.ConfigError, match="--advertise"):
        settled(tmp_path, port=free_port(), **options)


def test_a_server_elsewhere_is_named_with_its_ca(tmp_path: Path) -> None:
    ca = tmp_path / "their-ca.pem"
    node = settled(tmp_path / "node", server="tls://nats.example:4222", ca=ca)

    assert node.embedded is None
    assert node.nats.servers == ("tls://nats.example:4222",)
    assert node.nats.ca == ca


@pytest.mark.parametrize(
    "options",
    [
        {"datacenter": "dc2"},
        {"trust_domain": "other.example"},
        {"csr_max_per_second": 51.0},
        {"server": "nats://127.0.0.1:1"},
    ],
    ids=str,
)
def test_what_contradicts_the_folder_is_refused_and_nothing_written(
    tmp_path: Path, options: dict[str, object]
) -> None:
    settled(tmp_path, port=free_port(), trust_domain="mesh.example")
    before = config_file(tmp_path).read_bytes()

    with pytest.raises(ContradictionError):
        settled(tmp_path, **options)

    assert config_file(tmp_path).read_bytes() == before


@pytest.mark.parametrize(
    "options", [{"datacenter": "DC 1"}, {"trust_domain": "single"}, {"trust_domain": "a b.c"}]
)
def test_what_is_no_name_is_refused_and_nothing_written(
    tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(config.ConfigError):
        settled(tmp_path, **options)

    assert list(tmp_path.iterdir()) == []


def test_the_embedded_servers_address_has_a_url() -> None:
    section = config.EmbeddedSection(listen="::1", port=4333)

    assert section.url == "nats://[::1]:4333"
    assert replace(section, listen="::", tls=True).url == "tls://[::1]:4333"


def test_clear_text_to_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="needs tls://"):
        settled(tmp_path, server="nats://nats.example:4222")


def test_tls_elsewhere_without_a_ca_is_ours(tmp_path: Path) -> None:
    node = settled(tmp_path, server="tls://nats.example:4222")

    assert node.nats.ca == tmp_path / "nats" / "tls" / "ca.pem"
