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
            help="May ask for certificates of service.NAME, or 'service.*' for all; repeatable.",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="For how long: 90m, 12h, 30d.")
    ] = None,
    data: FolderOption = None,
) -> None:
    """Add a user: a creds file and a `nats` context, which work at once."""
    from services.clock import SystemClock
    from services.nats_access import users
    from services.setup_node import nats_kek

    lasts = _duration(expires) if expires else None
    with told():
        layout, _ = _node(data)
        made = users.add_user(
            layout,
            name,
            sign=sign or (),
            expires=lasts,
            kek=nats_kek(layout.data),
            clock=SystemClock(),
        )
    print(f"creds    {made.creds}")
    print(f"context  {made.context}")


@app.command("list")
def list_users(json: JsonOption = False, data: FolderOption = None) -> None:
    """List all users, revoked ones included."""
    import msgspec

    from services.nats_access import users

    with told():
        layout, _ = _node(data)
        found = users.list_users(layout)
    if json:
        for user in found:
            print(msgspec.json.encode(user).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("user", "role", "may sign", "issued", "expires", "revoked"):
        table.add_column(column, overflow="fold")
    for user in found:
        moments = (user.issued, user.expires, user.revoked)
        table.add_row(
            user.name,
            user.role,
            "all" if user.role == "admin" else " ".join(user.sign),
            *(f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in moments),
        )
    Console().print(table)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The user to shut out.")],
    data: FolderOption = None,
) -> None:
    """Shut a user out, at once and for good; the name can be given out again."""
    from services.clock import SystemClock
    from services.nats_access import users
    from services.setup_node import nats_kek

    with told():
        layout, node = _node(data)
        kek = nats_kek(layout.data)
    run(
        users.revoke_user(
            layout,
            name,
            kek=kek,
            servers=node.nats.servers,
            ca=node.nats.ca,
            clock=SystemClock(),
        )
    )
    say(f"{name} is shut out")


def _node(data: Path | None) -> tuple[NatsLayout, NodeConfig]:
    from services.nats_access import provision

    node = node_of(data)
    return provision.load(folder(data)), node


def _duration(text: str) -> timedelta:
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    if match is None:
        raise CliError(f"{text!r} is no duration: 90m, 12h, 30d", Exit.USAGE)
    return timedelta(**{units[match[2]]: int(match[1])})
