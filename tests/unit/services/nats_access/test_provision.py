from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.keys.kek import KeyEncryptionKey
from services.nats_access import jwt, provision, revocation, users
from services.nats_access.layout import NatsLayout
from services.nats_access.provision import ProvisionError
from services.nats_access.seeds import SeedError, WrongKeyError

KEK = KeyEncryptionKey(bytes(range(32)))
STEPS = [
    "init.nats_seed_operator",
    "init.nats_seed_clients-signing",
    "init.nats_seed_sys-signing",
    "init.nats_token_operator",
    "init.nats_token_ca",
    "init.nats_token_clients",
    "init.nats_accounts",
    "init.nats_workers",
    "user.registered",
    "init.nats_users",
]


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def complete(layout: NatsLayout) -> None:
    """Check that every user's token fits its account's, and that the operator's."""
    operator = jwt.read(layout.token("operator"))
    tokens = {name: jwt.read(layout.token(name)) for name in revocation.ACCOUNTS}
    assert operator.nats["system_account"] == tokens["sys"].sub
    for name, claims in tokens.items():
        assert claims.iss in operator.nats["signing_keys"]
        assert layout.token(name).read_text() in layout.accounts_conf.read_text()
    assert {each["account"] for each in tokens["clients"].nats["imports"]} == {
        tokens["ca"].sub,
        tokens["workers"].sub,
    }
    creds = {
        "ca": [layout.creds(name) for name in ("init", "leader-elector", "root-manager")],
        "workers": [layout.creds(name) for name in ("signer", "replicator")],
        "sys": [layout.creds("sys")],
        "clients": [layout.client_creds(name) for name in ("admin", "auditor")],
    }
    for account, found in creds.items():
        for file in found:
            user = jwt.read_creds(file)
            assert user.nats["issuer_account"] == tokens[account].sub
            assert [user.iss] == tokens[account].nats["signing_keys"]
    for name in ("admin", "auditor"):
        entry = users.find(layout, name)
        assert entry is not None
        assert entry.keys[-1] == jwt.read_creds(layout.client_creds(name)).sub


def test_everything_that_is_made_hangs_together(tmp_path: Path) -> None:
    complete(provision.provision(tmp_path, "dc1", KEK))


def test_a_second_time_nothing_changes(tmp_path: Path) -> None:
    layout = provision.provision(tmp_path, "dc1", KEK)
    before = contents(tmp_path)

    assert provision.provision(tmp_path, "dc1", KEK) == layout
    assert provision.load(tmp_path) == layout
    assert contents(tmp_path) == before


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_is_finished_by_the_next_run(tmp_path: Path, step: str) -> None:
    program = (
        "from pathlib import Path; from services.nats_access import provision; "
        "from services.keys.kek import KeyEncryptionKey; kek = KeyEncryptionKey(bytes(range(32))); "
        f"provision.provision(Path({str(tmp_path)!r}), 'dc1', kek)"
    )
    stop_at = {"CALEDGER_TESTING_STOP_AT": f"{step}=KILL"}
    crashed = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **stop_at}, check=False
    )
    assert crashed.returncode == -9
    before = contents(tmp_path)

    layout = provision.provision(tmp_path, "dc1", KEK)

    complete(layout)
    after = contents(tmp_path)
    changed = {name for name in before if after[name] != before[name]}
    # A user whose key was written down and whose creds were not gets another key beside it.
    assert changed <= ({"nats/users/admin.json"} if step == "user.registered" else set())


def test_the_wrong_key_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    provision.provision(tmp_path, "dc1", KEK)
    before = contents(tmp_path)

    with pytest.raises(WrongKeyError):
        provision.provision(tmp_path, "dc1", KeyEncryptionKey(bytes(32)))

    assert contents(tmp_path) == before


def test_a_folder_of_another_datacenter_is_left_alone(tmp_path: Path) -> None:
    provision.provision(tmp_path, "dc1", KEK)
    before = contents(tmp_path)

    with pytest.raises(ProvisionError, match="dc1"):
        provision.provision(tmp_path, "dc2", KEK)

    assert contents(tmp_path) == before


def test_the_identity_seeds_may_be_taken_away(tmp_path: Path) -> None:
    layout = provision.provision(tmp_path, "dc1", KEK)
    shutil.rmtree(layout.folder / "offline")

    complete(provision.provision(tmp_path, "dc1", KEK))


def test_what_was_signed_with_a_seed_that_was_taken_away_is_not_replaced(tmp_path: Path) -> None:
    """A new account key would make every user's credentials void."""
    layout = provision.provision(tmp_path, "dc1", KEK)
    shutil.rmtree(layout.folder / "offline")
    layout.creds("signer").unlink()
    before = contents(tmp_path)

    with pytest.raises(SeedError, match="workers-signing"):
        provision.provision(tmp_path, "dc1", KEK)

    assert contents(tmp_path) == before


def test_no_seed_and_no_private_key_is_in_the_clear_but_in_creds(tmp_path: Path) -> None:
    provision.provision(tmp_path, "dc1", KEK)

    import re

    seed = re.compile(rb"S[OAU][A-Z2-7]{56}")
    holders = {name for name, content in contents(tmp_path).items() if seed.search(content)}
    assert holders
    assert all(name.endswith(".creds") for name in holders)
    for name in holders:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_was_not_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="caledger init"):
        provision.load(tmp_path)
