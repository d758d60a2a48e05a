"""Users of account CLIENTS: added and listed while everything runs.

Adding takes the signing key of CLIENTS, which can make no worker; no server is asked.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec

from events.base import Struct
from services.breakpoints import reached
from services.clock import Clock
from services.keys.kek import KeyEncryptionKey
from services.nats_access import contexts, jwt, seeds
from services.nats_access.accounts import user_claims
from services.nats_access.files import write_atomically
from services.nats_access.layout import CLIENTS_SIGNING, NatsLayout
from services.nats_access.permissions import (
    READY,
    RESERVED_NAMES,
    Permissions,
    Role,
    permissions,
)

READY_LASTS: Final = timedelta(minutes=20)

FIRST_USERS: Final = (Role.ADMIN, Role.AUDITOR)  # made with the folder

_ROLES: Final[Mapping[Role, Literal["admin", "auditor", "client"]]] = {
    Role.ADMIN: "admin",
    Role.AUDITOR: "auditor",
    Role.CLIENT: "client",
}

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class UserError(Exception):
    """A user that cannot be added or revoked; the text says why."""


class Revocation(Struct):
    """A key that is shut out for ever."""

    key: str
    at: datetime


class User(Struct):
    """An entry of the register: public."""

    name: str
    role: Literal["admin", "auditor", "client"]
    sign: tuple[str, ...]  # `service.web`, `service.*`; an admin may sign all
    keys: tuple[str, ...]  # public keys ever given out under this name, the newest last
    issued: datetime
    expires: datetime | None = None
    revoked: datetime | None = None  # the user; None again once it was added anew
    revocations: tuple[Revocation, ...] = ()  # of all its keys, for ever


class UserFiles(Struct):
    """What a user is given: this is all it needs, with the transport CA where there is TLS."""

    creds: Path
    context: Path


def add_user(
    layout: NatsLayout,
    name: str,
    *,
    sign: Sequence[str],
    expires: timedelta | None,
    url: str,
    ca: Path | None,
    kek: KeyEncryptionKey,
    clock: Clock,
) -> UserFiles:
    """Make a user who may ask certificates for these identities; it can connect at once.

    `admin` and `auditor`, once revoked, are made again by it, with what they always may. `url`, by
    commas, and `ca` are of the servers. Raises UserError (a name that is taken or is none),
    BadGrantError, SeedError.
    """
    role = role_of(name, sign)
    allowed = permissions(role, layout.subjects, user=name, sign=sign)
    now = clock.now()
    with locked(layout):
        known = find(layout, name)
        if known is not None and known.revoked is None:
            raise UserError(f"{name} exists already; revoke it first")
        signer = seeds.load(layout.seed(CLIENTS_SIGNING), kek)
        entry = User(
            name=name,
            role=_ROLES[role],
            sign=tuple(sign),
            keys=known.keys if known else (),
            revocations=known.revocations if known else (),
            issued=now,
            expires=None if expires is None else now + expires,
        )
        register(layout, entry, allowed, signer)
        context = contexts.write(layout, name, url=url, ca=ca)
    return UserFiles(creds=layout.client_creds(name), context=context)


def role_of(name: str, sign: Sequence[str]) -> Role:
    """Return what a user of this name is; raises UserError where it cannot be added so."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no user's name: 1 to 64 of A-Z, a-z, 0-9, _ and -")
    role = next((role for role in FIRST_USERS if role.value == name), Role.CLIENT)
    if role is Role.CLIENT and name in RESERVED_NAMES:
        raise UserError(f"{name} is a name of caledger's own")
    if role is not Role.CLIENT and sign:
        raise UserError(f"what {name} may do is fixed: leave out --sign, or name another user")
    return role


def is_lost(layout: NatsLayout, name: str) -> bool:
    """Say whether a user is in force whose creds are not here: whoever has them is the user."""
    entry = find(layout, name)
    lost = entry is not None and entry.revoked is None
    return lost and not layout.client_creds(name).exists()


def away(layout: NatsLayout) -> list[str]:
    """Return what to tell of `admin` and `auditor`, where they have no creds here."""
    told = []
    for name in (role.value for role in FIRST_USERS):
        if is_lost(layout, name):
            told.append(
                f"the creds of {name} are not in {layout.contexts}: whoever has them is {name}; "
                f"`caledger user add {name}` makes new ones and shuts the old out"
            )
        elif not layout.client_creds(name).exists():
            told.append(f"there is no {name} any more; `caledger user add {name}` makes one again")
    return told


def list_users(layout: NatsLayout) -> list[User]:
    """Return every user of CLIENTS, revoked ones included, by name."""
    found = (find(layout, file.stem) for file in sorted(layout.users.glob("*.json")))
    return [user for user in found if user is not None]


def find(layout: NatsLayout, name: str) -> User | None:
    """Return a user's entry, None where there is none; raises UserError."""
    file = layout.user(name)
    try:
        return msgspec.json.decode(file.read_bytes(), type=User)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UserError(f"{file}: {error}") from error


def register(layout: NatsLayout, entry: User, allowed: Permissions, signer: seeds.Nkey) -> None:
    """Give a user a key and write down that it has one; the caller holds the lock."""
    key = seeds.Nkey.generate(seeds.Kind.USER)
    entry = msgspec.structs.replace(entry, keys=(*entry.keys, key.public))
    write(layout, entry)  # first: a key that is not written down could not be revoked
    reached("user.registered")
    issue(
        layout.client_creds(entry.name),
        key,
        name=entry.name,
        allowed=allowed,
        signer=signer,
        account=jwt.read(layout.token("clients")).sub,
        issued=entry.issued,
        expires=entry.expires,
    )


def issue(
    creds: Path,
    key: seeds.Nkey,
    *,
    name: str,
    allowed: Permissions,
    signer: seeds.Nkey,
    account: str,
    issued: datetime,
    expires: datetime | None = None,
) -> None:
    """Write the creds of a user of an account, signed by one of the account's signing keys."""
    token = jwt.encode(
        signer,
        subject=key.public,
        name=name,
        nats=user_claims(account, publish=allowed.publish, subscribe=allowed.subscribe),
        issued=issued,
        expires=expires,
    )
    jwt.write_creds(creds, token, key.seed)


def issue_ready(
    layout: NatsLayout, creds: Path, *, services: Sequence[str], kek: KeyEncryptionKey, clock: Clock
) -> None:
    """Write creds for who asks whether every partition answers, for these names; raises SeedError.

    They are in no register: they expire soon by themselves, and depend on no user being in force.
    """
    now = clock.now()
    issue(
        creds,
        seeds.Nkey.generate(seeds.Kind.USER),
        name=READY,
        allowed=permissions(
            Role.CLIENT, layout.subjects, user=READY, sign=[f"service.{name}" for name in services]
        ),
        signer=seeds.load(layout.seed(CLIENTS_SIGNING), kek),
        account=jwt.read(layout.token("clients")).sub,
        issued=now,
        expires=now + READY_LASTS,
    )


@contextmanager
def locked(layout: NatsLayout) -> Iterator[None]:
    """Hold the lock of whoever changes users or tokens; waits for it."""
    layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with layout.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(layout: NatsLayout, entry: User) -> None:
    """Write a user's entry down; the caller holds the lock."""
    content = msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n"
    write_atomically(layout.user(entry.name), content)
