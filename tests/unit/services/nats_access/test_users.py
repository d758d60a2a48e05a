from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.clock import SystemClock
from services.keys.kek import KeyEncryptionKey
from services.nats_access import contexts, jwt, provision, revocation, users
from services.nats_access.layout import NatsLayout
from services.nats_access.permissions import BadGrantError
from services.nats_access.seeds import WrongKeyError
from services.nats_access.users import UserError

KEK = KeyEncryptionKey(bytes(range(32)))
CLOCK = SystemClock()
URL = "nats://127.0.0.1:4222"


class Noon:
    def now(self) -> datetime:
        return datetime(2030, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path: Path) -> NatsLayout:
    made = provision.provision(tmp_path, "dc1", KEK)
    contexts.write_all(made, url="nats://127.0.0.1:4222", ca=None)
    return made


def add(
    layout: NatsLayout,
    name: str,
    *sign: str,
    expires: timedelta | None = None,
    kek: KeyEncryptionKey = KEK,
) -> users.UserFiles:
    return users.add_user(
        layout, name, sign=sign, expires=expires, url=URL, ca=None, kek=kek, clock=Noon()
    )


def test_a_user_gets_creds_and_a_context(layout: NatsLayout) -> None:
    files = add(layout, "shop", "service.web", "service.api", expires=timedelta(days=30))

    claims = jwt.read_creds(files.creds)
    assert claims.name == "shop"
    assert claims.exp == int(datetime(2030, 2, 1, 12, tzinfo=UTC).timestamp())
    assert claims.nats["pub"]["allow"][-4:] == [
        "ca.dc1.sign.service.web",
        "ca.dc1.submit.service.web",
        "ca.dc1.sign.service.api",
        "ca.dc1.submit.service.api",
    ]
    assert contexts.read(files.context).url == "nats://127.0.0.1:4222"


def test_adding_takes_no_seed_but_that_of_the_clients(layout: NatsLayout) -> None:
    shutil.rmtree(layout.folder / "offline")
    layout.seed("operator-signing").unlink()

    assert add(layout, "shop", "service.web").creds.exists()


def test_the_register_names_every_user_and_holds_no_secret(layout: NatsLayout) -> None:
    files = add(layout, "shop", "service.web")

    assert [user.name for user in users.list_users(layout)] == ["admin", "auditor", "shop"]
    entry = users.find(layout, "shop")
    assert entry == users.User(
        name="shop",
        role="client",
        sign=("service.web",),
        keys=(jwt.read_creds(files.creds).sub,),
        issued=datetime(2030, 1, 2, 12, tzinfo=UTC),
    )
    seed = files.creds.read_text().splitlines()[-2]
    assert seed.startswith("SU")
    assert seed not in layout.user("shop").read_text()


def test_a_name_that_is_taken_is_not_given_again(layout: NatsLayout) -> None:
    files = add(layout, "shop", "service.web")
    before = files.creds.read_bytes()

    with pytest.raises(UserError, match="revoke it first"):
        add(layout, "shop", "service.db")

    assert files.creds.read_bytes() == before


@pytest.mark.parametrize("name", ["admin", "auditor", "signer", "sys", "caledger-dev"])
def test_a_name_of_our_own_is_not_given(layout: NatsLayout, name: str) -> None:
    with pytest.raises(UserError):
        add(layout, name, "service.web")


@pytest.mark.parametrize("name", ["", "a.b", "../up", "a/b", ">", "*", "a b", "é", "x" * 65])
def test_a_name_that_is_no_token_is_not_given(layout: NatsLayout, name: str) -> None:
    with pytest.raises(UserError):
        add(layout, name, "service.web")


def test_an_identity_that_is_none_adds_nobody(layout: NatsLayout) -> None:
    with pytest.raises(BadGrantError):
        add(layout, "shop", "service.web", "everything")

    assert users.find(layout, "shop") is None


def test_the_wrong_key_adds_nobody(layout: NatsLayout) -> None:
    with pytest.raises(WrongKeyError):
        add(layout, "shop", "service.web", kek=KeyEncryptionKey(bytes(32)))

    assert users.find(layout, "shop") is None
    assert not layout.client_creds("shop").exists()


def test_an_admin_that_is_there_is_not_made_again(layout: NatsLayout) -> None:
    before = layout.client_creds("admin").read_bytes()

    with pytest.raises(UserError, match="revoke it first"):
        add(layout, "admin")

    assert layout.client_creds("admin").read_bytes() == before
    assert users.away(layout) == []


def test_a_first_user_whose_creds_are_away_is_told_and_not_made_again(layout: NatsLayout) -> None:
    """Somebody may hold them, who would stay the admin beside a new one."""
    entry = users.find(layout, "admin")
    layout.client_creds("admin").unlink()
    layout.context("admin").unlink()

    provision.provision(layout.data, "dc1", KEK, in_use=True)

    assert not layout.client_creds("admin").exists()
    assert users.find(layout, "admin") == entry
    [told] = users.away(layout)
    assert "whoever has them is admin" in told
    assert "`caledger user add admin`" in told


async def test_a_user_that_is_not_there_cannot_be_revoked(layout: NatsLayout) -> None:
    with pytest.raises(UserError, match="no user nobody"):
        await revocation.revoke_user(
            layout, "nobody", kek=KEK, servers=["nats://127.0.0.1:1"], ca=None, clock=CLOCK
        )
