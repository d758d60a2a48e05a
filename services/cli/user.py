"""`caledger user`: who may ask for which certificates."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import (
    CliError,
    Exit,
    FolderOption,
    JsonOption,
    folder,
    node_of,
    run,
    say,
    show,
    told,
)

if TYPE_CHECKING:
    from services.config import NodeConfig
    from services.nats_access.layout import NatsLayout

app = typer.Typer(
    no_args_is_help=True,
    help="Users of the CA; works on the node's folder, while everything runs.",
)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The new user.")],
    sign: Annotated[
        list[str] | None,
        typer.Option(
            "--sign",
            metavar="IDENTITY",
            help="May ask for certificates of service.NAME or agent.NAME (the plain name, not "
            "encoded), of 'service.*' for all of a kind, of gateway, of server; repeatable.",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="For how long: 90m, 12h, 30d.")
    ] = None,
    json: JsonOption = False,
    data: FolderOption = None,
) -> None:
    """Add a user: a creds file and a `nats` context, which work at once.

    `admin` and `auditor` are there from the start; once one was revoked, or its files were lost,
    this makes it again.
    """
    from services.clock import SystemClock
    from services.nats_access import users
    from services.setup_node import nats_kek

    lasts = _duration(expires) if expires else None
    encoded = [_encoded(identity) for identity in sign or ()]
    with told():
        layout, node = _node(data)
        first = users.role_of(name, encoded) in users.FIRST_USERS
        lost = first and users.is_lost(layout, name)
    if lost:
        _revoke(layout, node, name)
        say(f"the creds of {name} that were not here are shut out")
    with told():
        made = users.add_user(
            layout,
            name,
            sign=encoded,
            expires=lasts,
            url=",".join(node.nats.servers),
            ca=node.nats.ca,
            kek=nats_kek(layout.data),
            clock=SystemClock(),
        )
    if json:
        _print_json({"user": name, "creds": str(made.creds), "context": str(made.context)})
        return
    print(f"creds    {made.creds}")
    print(f"context  {made.context}")


@app.command("list")
def list_users(json: JsonOption = False, data: FolderOption = None) -> None:
    """List all users, revoked ones included, and every key that is shut out.

    --json prints one user a line.
    """
    import msgspec

    from services.nats_access import users

    with told():
        layout, _ = _node(data)
        found = [
            msgspec.structs.replace(
                user, sign=("*",) if user.role == "admin" else tuple(map(_plain, user.sign))
            )
            for user in users.list_users(layout)
        ]
    if json:
        for user in found:
            _print_json(user)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("user", "role", "may sign", "issued", "expires", "revoked"):
        table.add_column(column, overflow="fold")
    for user in found:
        moments = (user.issued, user.expires, user.revoked)
        table.add_row(
            user.name,
            user.role,
            Text(" ".join(user.sign)),  # a name is text, and no markup
            *(f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in moments),
        )
    show(table)
    for user in found:
        for revocation in user.revocations:
            print(f"revoked  {revocation.at:%Y-%m-%d %H:%M:%S}Z  {user.name}  {revocation.key}")


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The user to shut out.")],
    json: JsonOption = False,
    data: FolderOption = None,
) -> None:
    """Shut a user out, at once and for good; the name can be given out again.

    `admin` and `auditor` too: nothing but `caledger user add` makes them again.
    """
    with told():
        layout, node = _node(data)
    _revoke(layout, node, name)
    if json:
        _print_json({"user": name, "revoked": True})
    else:
        say(f"{name} is shut out")


def _revoke(layout: NatsLayout, node: NodeConfig, name: str) -> None:
    from services.clock import SystemClock
    from services.nats_access import revocation
    from services.setup_node import nats_kek

    with told():
        kek = nats_kek(layout.data)
    run(
        revocation.revoke_user(
            layout,
            name,
            kek=kek,
            servers=node.nats.servers,
            ca=node.nats.ca,
            clock=SystemClock(),
        )
    )


def _node(data: Path | None) -> tuple[NatsLayout, NodeConfig]:
    from services.nats_access import provision

    node = node_of(data)
    return provision.load(folder(data)), node


def _encoded(identity: str) -> str:
    """Return an identity whose name is plain as the register has it; raises CliError."""
    from events.leaves import IDENTITY_KINDS
    from events.subjects import NAMELESS_KINDS, BadNameError, encode_name
    from services.nats_access.permissions import EVERY_NAME

    kind, dot, name = identity.partition(".")
    if kind in NAMELESS_KINDS and not dot:
        return identity
    if kind not in IDENTITY_KINDS or kind in NAMELESS_KINDS or not dot:
        raise CliError(
            f"--sign {identity}: write service.NAME, agent.NAME, gateway or server", Exit.USAGE
        )
    if name == EVERY_NAME:
        return identity
    if {"*", ">"} & set(name):  # nobody who writes `service.web*` means the service of that name
        raise CliError(
            f"--sign {identity}: of patterns there is only '{kind}.{EVERY_NAME}'; what holds * or "
            "> is no name to be given to a user",
            Exit.USAGE,
        )
    try:
        return f"{kind}.{encode_name(name)}"
    except BadNameError as error:
        raise CliError(f"--sign {identity}: {error}", Exit.USAGE) from error


def _plain(identity: str) -> str:
    """Return an identity of the register with the name as it is."""
    from events.subjects import BadNameError, decode_name

    kind, dot, name = identity.partition(".")
    try:
        return f"{kind}{dot}{decode_name(name)}"
    except BadNameError:  # `*`, or a name that an earlier version wrote down as it was typed
        return identity


def _print_json(document: object) -> None:
    import msgspec

    print(msgspec.json.encode(document).decode())


def _duration(text: str) -> timedelta:
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    if match is None:
        raise CliError(f"{text!r} is no duration: 90m, 12h, 30d", Exit.USAGE)
    return timedelta(**{units[match[2]]: int(match[1])})
