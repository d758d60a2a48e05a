"""Users of account CLIENTS are shut out while everything runs.

That signs a new token of the account with the operator's signing key, and tells the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from nats import errors as nats_errors

from events.base import Struct
from services import transport
from services.breakpoints import reached
from services.clock import Clock
from services.keys.kek import KeyEncryptionKey
from services.nats_access import jwt, seeds
from services.nats_access.files import write_atomically
from services.nats_access.layout import OPERATOR_SIGNING, NatsLayout
from services.nats_access.permissions import CLAIMS_UPDATE, Role
from services.nats_access.server_config import render_accounts
from services.nats_access.users import Revocation, User, UserError, find, locked, write

PUSH_SECONDS_MAX: Final = 5.0

ACCOUNTS: Final = ("sys", "ca", "workers", "clients")  # in the order of who imports whom


class NotTakenError(Exception):
    """The server does not shut a user out, or does not say so: to repeat it is enough."""


class _Reply(Struct):
    """The server's answer to a new account token."""

    data: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


async def revoke_user(
    layout: NatsLayout,
    name: str,
    *,
    kek: KeyEncryptionKey,
    servers: Sequence[str],
    ca: Path | None,
    clock: Clock,
) -> None:
    """Shut a user out: connections of its are cut at once, and it never gets in again.

    Repeating it is harmless. Once the new token of the account is written here, every start of a
    server from this folder has it; so where a server cannot be told, this raises TransportError or
    NotTakenError, and to repeat it is enough. Raises UserError, SeedError too.
    """
    now = clock.now()
    with locked(layout):
        entry = find(layout, name)
        if entry is None:
            raise UserError(f"there is no user {name}")
        signer = seeds.load(layout.seed(OPERATOR_SIGNING), kek)
        token = _without(layout, entry, signer, now)
        write_atomically(layout.token("clients"), token.encode())
        reached("user.token_written")
        write_accounts_conf(layout)
        if entry.revoked is None:
            known = {revocation.key for revocation in entry.revocations}
            fresh = (Revocation(key=key, at=now) for key in entry.keys if key not in known)
            revocations = (*entry.revocations, *fresh)
            entry = msgspec.structs.replace(entry, revoked=now, revocations=revocations)
            write(layout, entry)
        await _push(layout, token, servers=servers, ca=ca)
        reached("user.pushed")
        layout.client_creds(name).unlink(missing_ok=True)
        layout.context(name).unlink(missing_ok=True)


def write_accounts_conf(layout: NatsLayout) -> None:
    """Write whom the server trusts, as the tokens in this folder say."""
    tokens = [layout.token(name).read_text().strip() for name in ACCOUNTS]
    content = render_accounts(
        operator=layout.token("operator").read_text().strip(),
        system_account=jwt.decode(tokens[0]).sub,
        accounts={jwt.decode(token).sub: token for token in tokens},
        resolver=layout.resolver.resolve(),
    ).encode()
    file = layout.accounts_conf
    if not file.exists() or file.read_bytes() != content:
        write_atomically(file, content, mode=0o600)


def _without(layout: NatsLayout, entry: User, signer: seeds.Nkey, now: datetime) -> str:
    """Return the token of CLIENTS that revokes all keys of a user, signed anew."""
    claims = jwt.read(layout.token("clients"))
    until = max(int(now.timestamp()), int(entry.issued.timestamp()))
    revoked = claims.nats.get("revocations", {}) | dict.fromkeys(entry.keys, until)
    # The server keeps the newer of two tokens, and counts in seconds.
    issued = max(now, datetime.fromtimestamp(claims.iat + 1, tz=now.tzinfo))
    return jwt.encode(
        signer,
        subject=claims.sub,
        name=claims.name,
        nats={**claims.nats, "revocations": revoked},
        issued=issued,
    )


async def _push(layout: NatsLayout, token: str, *, servers: Sequence[str], ca: Path | None) -> None:
    creds = layout.creds(Role.SYS.value)
    nc = await transport.connect(servers, creds=creds, ca=ca, name="caledger user revoke")
    try:
        answer = await nc.request(CLAIMS_UPDATE, token.encode(), timeout=PUSH_SECONDS_MAX)
        reply = msgspec.json.decode(answer.data, type=_Reply)
    except (nats_errors.Error, msgspec.MsgspecError) as error:
        raise NotTakenError(
            f"the server does not say that it shut the user out: {error}; repeat it"
        ) from error
    finally:
        await nc.close()
    if reply.error is not None or reply.data is None or reply.data.get("code") != 200:
        raise NotTakenError(
            f"the server refused the account's new token: {reply.error or reply.data}"
        )
