"""A node's configuration as somebody may have written it by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config import ConfigError, load
from services.node_file import NodeOptions, config_file, settle


@pytest.fixture
def file(tmp_path: Path) -> Path:
    settle(NodeOptions(data=tmp_path, server="nats://127.0.0.1:4222"))
    return config_file(tmp_path)


@pytest.mark.parametrize("rate", ["inf", "-inf", "nan", "-1.0", "1e10"])
def test_a_rate_that_no_ledger_can_tell_is_refused(file: Path, rate: str) -> None:
    text = file.read_text()
    assert "csr_max_per_second = 50\n" in text
    file.write_text(text.replace("csr_max_per_second = 50\n", f"csr_max_per_second = {rate}\n"))

    with pytest.raises(ConfigError, match="no rate limit"):
        load(file)


@pytest.mark.parametrize("rate", ["0", "0.5", "1e9"])
def test_any_other_rate_is_read(file: Path, rate: str) -> None:
    text = file.read_text()
    file.write_text(text.replace("csr_max_per_second = 50\n", f"csr_max_per_second = {rate}\n"))

    assert load(file).initial.csr_max_per_second == float(rate)


def test_a_trust_domain_that_is_none_is_refused(file: Path) -> None:
    file.write_text(file.read_text().replace("[initial]", '[initial]\ntrust_domain = "single"'))

    with pytest.raises(ConfigError, match="'single' is not a trust domain"):
        load(file)


def test_metrics_are_off_unless_a_port_is_named(file: Path) -> None:
    off = load(file).metrics
    file.write_text(f"{file.read_text()}\n[metrics]\nbase_port = 9464\n")
    on = load(file).metrics

    assert off.port("signer", 3) is None
    assert on.address == "127.0.0.1"
    workers = ("leader-elector", "root-manager", "replicator")
    ports = [*(on.port(worker, 0) for worker in workers), on.port("signer", 0)]
    assert [*ports, on.port("signer", 5)] == [9464, 9465, 9466, 9467, 9472]


@pytest.mark.parametrize("port", ["0", "65001", "-1", '"x"'])
def test_a_port_that_is_none_is_refused(file: Path, port: str) -> None:
    file.write_text(f"{file.read_text()}\n[metrics]\nbase_port = {port}\n")

    with pytest.raises(ConfigError, match="base_port"):
        load(file)
