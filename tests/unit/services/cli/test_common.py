"""Which server a command speaks to, and as whom."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from services.asking import NoAnswerError
from services.cli.common import CliError, Exit, Target, find, node_of, told
from services.cli.errors import judge
from services.config import ConfigError
from services.keys.interface import WrongKeyEncryptionKeyError
from services.keys.kek import KeyEncryptionKey, KeyEncryptionKeyError
from services.nats_access.provision import provision
from services.nats_access.revocation import NotTakenError
from services.nats_access.seeds import WrongKeyError
from services.nats_access.users import UserError
from services.refusals import RefusedError
from services.streams import SetupError
from services.transport import NotPermittedError, NotSecureError, UnreachableError
from tests.nats import free_port

TOML = """
datacenter = "east"
node = "n"
data = "."
[nats]
servers = ["nats://127.0.0.1:1"]
creds = "nats/creds"
[keys]
signing = "file:keys/signing.kek"
"""


def node(folder: Path, *users: str) -> Path:
    contexts = folder / "nats" / "context"
    contexts.mkdir(parents=True)
    (folder / "caledger.toml").write_text(TOML)
    for user in users:
        (contexts / f"{user}.json").write_text(
            json.dumps({"url": f"nats://{user}:1", "creds": f"{user}.creds"})
        )
    return folder


def found(environment: dict[str, str] | None = None, **options: object) -> Target:
    asked = {"data": None, "context": None, "user": None, "datacenter": None, **options}
    return find(environment=environment or {}, **asked)  # type: ignore[arg-type]  # as the options are


def test_a_named_folder_gives_server_creds_and_datacenter(tmp_path: Path) -> None:
    data = node(tmp_path, "admin")

    target = found(data=data)

    assert target.servers == ("nats://admin:1",)
    assert target.creds == data / "nats" / "context" / "admin.creds"
    assert target.datacenter == "east"
    assert target.ca is None


def test_the_user_is_the_commands_own_unless_one_is_named(tmp_path: Path) -> None:
    data = node(tmp_path, "admin", "auditor", "shop")

    assert found(data=data, default_user="auditor").servers == ("nats://auditor:1",)
    assert found(data=data, user="shop", default_user="auditor").servers == ("nats://shop:1",)


def test_the_folder_of_the_environment_comes_before_its_server(tmp_path: Path) -> None:
    data = node(tmp_path, "admin")
    environment = {"CALEDGER_DATA": str(data), "NATS_URL": "nats://elsewhere:1"}

    assert found(environment).servers == ("nats://admin:1",)


def test_a_named_context_comes_before_the_environment(tmp_path: Path) -> None:
    node(tmp_path / "home", "ops")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "NATS_URL": "nats://elsewhere:1"}

    target = found(environment, context="ops")

    assert target.servers == ("nats://ops:1",)
    assert target.datacenter == "dc1"


def test_the_environment_names_servers_creds_and_ca() -> None:
    environment = {"NATS_URL": "tls://a:1,tls://b:1", "NATS_CREDS": "/c", "NATS_CA": "/ca.pem"}

    target = found(environment, datacenter="dc7")

    assert target.servers == ("tls://a:1", "tls://b:1")
    assert (target.creds, target.ca) == (Path("/c"), Path("/ca.pem"))
    assert target.datacenter == "dc7"


def test_the_creds_tell_the_datacenter(tmp_path: Path) -> None:
    layout = provision(tmp_path, "west", KeyEncryptionKey(bytes(32)))
    environment = {
        "NATS_URL": "nats://127.0.0.1:1",
        "NATS_CREDS": str(layout.client_creds("admin")),
    }

    assert found(environment).datacenter == "west"
    assert found(environment, datacenter="east").datacenter == "east"


def test_the_default_folder_is_the_last_resort(tmp_path: Path) -> None:
    node(tmp_path / ".caledger", "admin")

    with contextlib.chdir(tmp_path):
        assert found().servers == ("nats://admin:1",)


@pytest.mark.parametrize("name", ["NATS_CREDS", "NATS_CA"])
def test_credentials_without_their_server_are_not_ignored(tmp_path: Path, name: str) -> None:
    data = node(tmp_path / ".caledger", "admin")

    with contextlib.chdir(tmp_path):
        with pytest.raises(CliError, match=f"{name} is set and NATS_URL is not") as error:
            found({name: "x"})
        assert found({name: "x", "CALEDGER_DATA": str(data)}).servers == ("nats://admin:1",)
        assert found({name: "x"}, data=data).servers == ("nats://admin:1",)

    assert error.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("environment", "options"),
    [({"NATS_URL": "nats://elsewhere:1"}, {}), ({"XDG_CONFIG_HOME": "home"}, {"context": "ops"})],
    ids=["NATS_URL", "--context"],
)
def test_a_user_of_a_folder_that_is_not_looked_into_is_not_ignored(
    tmp_path: Path, environment: dict[str, str], options: dict[str, str]
) -> None:
    data = node(tmp_path / ".caledger", "admin", "shop")
    node(tmp_path / "home", "ops")

    with contextlib.chdir(tmp_path):
        with pytest.raises(CliError, match="--user") as error:
            found(environment, user="shop", **options)
        assert found(environment, user="shop", data=data).servers == ("nats://shop:1",)

    assert error.value.code is Exit.USAGE


async def test_an_unreachable_server_of_the_environment_is_told_as_such(tmp_path: Path) -> None:
    creds = provision(tmp_path, "west", KeyEncryptionKey(bytes(32))).client_creds("admin")
    url = f"nats://127.0.0.1:{free_port()}"
    target = found({"NATS_URL": url, "NATS_CREDS": str(creds)})

    with pytest.raises(
        CliError, match=rf"{url}: Connection refused \(server from NATS_URL\)"
    ) as error:
        async with target.client():
            pass

    assert error.value.code is Exit.UNREACHABLE


def test_a_folder_that_is_none_is_told_alike_by_every_command(tmp_path: Path) -> None:
    begins = f"{tmp_path} is no folder of a caledger node: start one with"

    with pytest.raises(CliError, match=begins) as by_server:
        found(data=tmp_path)
    with pytest.raises(CliError, match=begins) as by_folder:
        node_of(tmp_path)

    assert by_server.value.code is by_folder.value.code is Exit.USAGE


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"creds": "x"}'])
def test_a_context_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    data = node(tmp_path, "admin")
    (data / "nats" / "context" / "admin.json").write_text(content)

    with pytest.raises(CliError, match="no context") as error:
        found(data=data)

    assert error.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError("rate_limited", "later", retry_after=1.0), 1),
        (SetupError("a stream differs"), 1),
        (NotTakenError("the server says no"), 1),
        (ConfigError("no such key"), 2),
        (UserError("no user nobody"), 2),
        (WrongKeyEncryptionKeyError("another key"), 2),
        (KeyEncryptionKeyError("chmod 600"), 2),
        (WrongKeyError("another key"), 2),
        (FileExistsError(17, "File exists", "/etc/passwd"), 2),
        (UnreachableError("nobody"), 3),
        (NotSecureError("clear text"), 3),
        (NoAnswerError("silence"), 3),
        (NotPermittedError("not this subject"), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    judged = judge(error)

    assert judged is not None
    assert judged.code == code


def test_a_bug_is_no_message_for_users() -> None:
    assert judge(AssertionError("impossible")) is None


async def test_what_python_writes_of_an_error_is_told_as_people_write_it(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    url = "nats://127.0.0.1:1"

    with pytest.raises(CliError) as no_creds, told():
        async with found({"NATS_URL": url, "NATS_CREDS": str(missing)}).client():
            pass
    with pytest.raises(CliError) as no_ca, told():
        async with found({"NATS_URL": url, "NATS_CA": str(missing)}).client():
            pass

    for error in (no_creds, no_ca):
        assert error.value.code is Exit.USAGE
        assert str(error.value).endswith(f"{missing}: No such file or directory")
