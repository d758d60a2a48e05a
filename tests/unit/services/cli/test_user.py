"""Users as the command line names and shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.common import CliError, Exit
from services.nats_access import jwt
from services.nats_access.layout import NatsLayout
from services.nats_access.provision import provision
from services.setup_node import nats_kek
from tests.unit.services.cli.test_common import TOML

NAMES = ["web", "a.b", "a%2Eb", "%zz", "a b", "100%", "é", "[red]", "%2A"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A node's folder, of which no server runs."""
    (tmp_path / "caledger.toml").write_text(TOML)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "nats.kek").write_text("11" * 32)
    (tmp_path / "keys" / "nats.kek").chmod(0o600)
    provision(tmp_path, "east", nats_kek(tmp_path))
    return tmp_path


def caledger(*arguments: str, data: Path) -> str:
    ran = CliRunner().invoke(app, [*arguments, "--data", str(data)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_name_to_sign_for_is_plain_where_it_is_typed_and_where_it_is_shown(
    data: Path, name: str
) -> None:
    caledger("user", "add", "shop", "--sign", f"service.{name}", data=data)

    allowed = jwt.read_creds(NatsLayout(data, "east").client_creds("shop")).nats["pub"]["allow"]
    shown = [
        json.loads(line) for line in caledger("user", "list", "--json", data=data).split("\n")[:-1]
    ]
    assert NatsLayout(data, "east").subjects.sign("service", name) in allowed
    assert [user["sign"] for user in shown if user["name"] == "shop"] == [[f"service.{name}"]]
    assert f" service.{name} " in caledger("user", "list", data=data)


def test_every_name_is_a_star(data: Path) -> None:
    caledger("user", "add", "all", "--sign", "service.*", data=data)

    allowed = jwt.read_creds(NatsLayout(data, "east").client_creds("all")).nats["pub"]["allow"]
    assert "ca.east.sign.service.*" in allowed
    assert " service.* " in caledger("user", "list", data=data)


@pytest.mark.parametrize(
    "identity",
    ["web", "gateway.web", "service.", "service.>", "service.web*", "service." + "x" * 129, ""],
)
def test_what_is_no_identity_is_told_as_it_was_typed(data: Path, identity: str) -> None:
    with pytest.raises(CliError) as error:
        caledger("user", "add", "x", "--sign", identity, data=data)

    assert error.value.code is Exit.USAGE
    assert str(error.value).startswith(f"--sign {identity}: ")
    assert "(" not in str(error.value), "a tuple of Python's"


def test_a_new_user_is_told_as_json(data: Path) -> None:
    told = json.loads(caledger("user", "add", "shop", "--json", data=data))

    layout = NatsLayout(data, "east")
    assert told["user"] == "shop"
    assert Path(told["creds"]) == layout.client_creds("shop")
    assert Path(told["context"]).exists()
