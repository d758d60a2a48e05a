from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from services.clock import SystemClock
from services.keys.kek import KeyEncryptionKey
from services.nats_access import provision, server_config, tls
from services.nats_access.server_config import ClearTextError, Cluster, Server
from services.nats_access.server_process import ServerProcess, find_binary
from tests.nats import free_port

KEK = KeyEncryptionKey(bytes(range(32)))
SERVER = Server(
    name="n1",
    datacenter="dc1",
    listen="127.0.0.1",
    port=4222,
    store=Path("/tmp/store"),
    accounts_conf="accounts.conf",
)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "ca.example"])
def test_what_other_machines_reach_is_not_served_in_clear_text(address: str) -> None:
    cluster = Cluster(name="c", listen=address, port=6222, routes=["127.0.0.1:6223"])
    for server in (replace(SERVER, listen=address), replace(SERVER, cluster=cluster)):
        with pytest.raises(ClearTextError, match="needs TLS"):
            server_config.render(server)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_what_this_machine_alone_reaches_may_be_served_in_clear_text(address: str) -> None:
    assert "tls" not in server_config.render(replace(SERVER, listen=address))


def test_every_append_is_on_disk_before_it_is_acknowledged() -> None:
    assert "sync_interval: always\n" in server_config.render(SERVER)


@pytest.mark.parametrize("listen", ["127.0.0.1", "::1", "0.0.0.0"])
def test_nats_server_takes_what_we_write(tmp_path: Path, listen: str) -> None:
    """Also where the path has characters that its configuration language gives a meaning."""
    data = tmp_path / 'dä ta \u2028\U0001f511 "quoted" #folder $HOME \\x41 \t\n\x7f'
    layout = provision.provision(data, "dc1", KEK)
    files = tls.ensure(
        layout.tls, listen=listen, kek=KEK, datacenter="dc1", now=SystemClock().now()
    )
    cluster = Cluster(name="c", listen=listen, port=6222, routes=["127.0.0.1:6222"])
    server = replace(SERVER, listen=listen, store=layout.folder, tls=files, cluster=cluster)
    layout.server_conf.write_text(server_config.render(server))

    checked = subprocess.run(
        [find_binary(), "-t", "-c", layout.server_conf], capture_output=True, check=False, text=True
    )

    assert checked.returncode == 0, checked.stderr


async def test_the_ledger_is_stored_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """nats-server reads no JSON: `\\u00e4` is an error to it, and `\\b` would be."""
    data = tmp_path / 'dä ta "q" \\t\b\t'
    layout = provision.provision(data, "dc1", KEK)
    port = free_port()
    provision.write_server_conf(layout, node="n1", listen="127.0.0.1", port=port, tls=None)
    process = ServerProcess(
        layout.server_conf, address="127.0.0.1", port=port, log=subprocess.DEVNULL
    )

    await process.start()
    await process.stop()

    assert (layout.folder / "jetstream").is_dir()
    assert layout.resolver.is_dir()


def test_a_cluster_with_tls_asks_its_servers_for_certificates() -> None:
    files = tls.files(Path("/tls"))
    cluster = Cluster(name="c", listen="0.0.0.0", port=6222, routes=["192.0.2.2:6222"])

    text = server_config.render(replace(SERVER, listen="0.0.0.0", tls=files, cluster=cluster))

    assert text.count("tls {") == 2
    assert "verify: true" in text
