"""`caledger ledger`: what happened, in order, and whether it can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import (
    CliError,
    ContextOption,
    DatacenterOption,
    DataOption,
    Exit,
    JsonOption,
    Target,
    UserOption,
    find,
    run,
    say,
)

if TYPE_CHECKING:
    from events.envelope import Recorded, Stored
    from services.cli.selection import Selection

app = typer.Typer(no_args_is_help=True, help="The ledger: read it, verify it.")


@app.command("replay")
def replay(
    first: Annotated[int, typer.Option("--from", metavar="SEQ", min=1, help="First sequence.")] = 1,
    last: Annotated[
        int | None, typer.Option("--to", metavar="SEQ", min=1, help="Last sequence.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only what the server stored since: 2026-08-01, 2026-08-01T12:00:00Z, or 90s, "
            "15m, 2h, 7d ago.",
        ),
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--type", metavar="T", help="Only events of this type, like leaf.issued."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only events about a SPIFFE id, or service.NAME."),
    ] = None,
    json: JsonOption = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for what comes, until Ctrl-C.")
    ] = False,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Print every event in order, as a user who may read the ledger (`auditor`).

    --json prints one event a line: {"sequence", "position" (in its entry, from 0), "stored" (the
    server's time), "event" (its bytes as they are stored)}.
    """
    from services.cli.selection import Selection

    selection = Selection.of(
        first=first,
        last=last,
        since=_moment(since) if since else None,
        event_type=event_type,
        identity=identity,
    )
    target = find(
        data=data, context=context, user=user, datacenter=datacenter, default_user="auditor"
    )
    run(_replay(target, selection, json=json, follow=follow), talkative=follow)


async def _replay(target: Target, selection: Selection, *, json: bool, follow: bool) -> None:
    from services.client import CaClient

    client = await CaClient.connect(
        target.servers, datacenter=target.datacenter, creds=target.creds, ca=target.ca
    )
    show = _json_line if json else _line
    try:
        async for stored in client.replay(after=selection.first - 1, follow=follow):
            if selection.past(stored.sequence):
                return
            for recorded in _events(stored, target.datacenter):
                if selection.takes(recorded):
                    print(show(recorded), flush=follow)
            if selection.ends_with(stored.sequence):
                return
    finally:
        await client.close()


def _events(stored: Stored, datacenter: str) -> Iterator[Recorded]:
    """Yield the events of an entry; a void one has none, and is named on stderr."""
    from events.envelope import VoidEntryError, decode_entry

    try:
        yield from decode_entry(stored, datacenter=datacenter).events
    except VoidEntryError as error:
        say(f"void entry sequence={stored.sequence}: {error}")


def _json_line(recorded: Recorded) -> str:
    import msgspec

    return msgspec.json.encode(
        {
            "sequence": recorded.sequence,
            "position": recorded.position,
            "stored": recorded.stored,
            "event": msgspec.Raw(recorded.raw),
        }
    ).decode()


def _line(recorded: Recorded) -> str:
    envelope = recorded.envelope
    place = f"{recorded.sequence}.{recorded.position}"
    kind = envelope.type.removeprefix("caledger.").rpartition(".")[0]
    about = f"{envelope.subject}"
    term = f" term {envelope.term}" if envelope.term is not None else ""
    return f"{place:>10}  {recorded.stored:%Y-%m-%d %H:%M:%S}Z  {kind:<22} {about}{term}"


def _moment(text: str) -> datetime:
    """Read a point in time: ISO 8601 (UTC where no zone is named), or how long ago."""
    from datetime import UTC

    from services.clock import SystemClock

    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    if text[:-1].isdecimal() and text[-1] in units:
        return SystemClock().now() - timedelta(**{units[text[-1]]: int(text[:-1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CliError(
            f"{text!r} is no point in time: 2026-08-01, 2026-08-01T12:00:00Z, or 15m",
            Exit.USAGE,
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
