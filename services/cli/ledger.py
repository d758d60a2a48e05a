"""`caledger ledger`: what happened, in order, and whether it can be believed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

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
    show,
)

if TYPE_CHECKING:
    from events.envelope import Recorded, Stored
    from projections.verify import Fault, Summary
    from services.cli.selection import Selection
    from services.client import CaClient

PROGRESS_EVERY: Final = 1000  # entries

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
        typer.Option(metavar="ID", help="Only events about a SPIFFE id, or service.NAME (plain)."),
    ] = None,
    serial: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="Only the certificate of this serial, however written."),
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
        serial=serial,
    )
    target = find(
        data=data, context=context, user=user, datacenter=datacenter, default_user="auditor"
    )
    run(_replay(target, selection, json=json, follow=follow), talkative=follow)


async def _replay(target: Target, selection: Selection, *, json: bool, follow: bool) -> None:
    render = _json_line if json else _line
    async with target.client() as client:
        until = selection.last
        if until is not None and not follow:
            until = min(until, await client.last_sequence())
        async for stored in client.replay(after=selection.first - 1, until=until, follow=follow):
            for recorded in _events(stored, target.datacenter):
                if selection.takes(recorded):
                    print(render(recorded), flush=follow)
        if until != selection.last:
            say(f"the ledger ends at sequence {until}")


@app.command("verify")
def verify(
    json: JsonOption = False,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Fold the whole ledger from its first entry, and check every rule that it must keep.

    Prints what was checked, and how much; each fault as `fault sequence=N check=NAME: ...`. Ends
    with exit code 1 where there is a fault.
    """
    import msgspec

    target = find(
        data=data, context=context, user=user, datacenter=datacenter, default_user="auditor"
    )
    faults, summary = run(_verify(target))
    if json:
        print(msgspec.json.encode({"faults": faults, "summary": summary}).decode())
    else:
        _report(faults, summary)
    if faults:
        raise typer.Exit(Exit.FAULT)


async def _verify(target: Target) -> tuple[list[Fault], Summary]:
    from services.client import ANSWER_SECONDS

    async with target.client() as client:
        return await verified(client, target.datacenter, timeout=ANSWER_SECONDS)


async def verified(
    client: CaClient, datacenter: str, *, timeout: float
) -> tuple[list[Fault], Summary]:
    """Check every rule up to what is the ledger's last sequence now.

    Raises NoAnswerError where what has been seen to be there is not given out for `timeout` seconds
    (`CaClient.replay`).
    """
    import asyncio

    from projections.verify import Verifier

    verifier = Verifier(datacenter)
    faults: list[Fault] = []
    last = await client.last_sequence()
    async for stored in client.replay(until=last, gaps=True, timeout=timeout):
        faults += verifier.check(stored)
        await asyncio.sleep(0)  # or the server, which hears nothing from us, hangs up
        if stored.sequence % PROGRESS_EVERY == 0 and sys.stderr.isatty():
            print(f"\r{stored.sequence} of {last}", end="\r", file=sys.stderr, flush=True)
    faults += verifier.finish(last_sequence=last)
    return faults, verifier.summary()


def _report(faults: list[Fault], summary: Summary) -> None:
    from rich.table import Table

    from projections.verify import CHECKS
    from services.wording import counted

    for fault in faults:
        print(f"fault sequence={fault.sequence} check={fault.check}: {fault.text}")
    print(
        f"ledger: sequences {summary.first} to {summary.last}, "
        f"{counted(summary.events, 'event')}, {counted(summary.leaves, 'certificate')}"
    )
    table = Table()
    table.add_column("checked")
    table.add_column("that", overflow="fold")
    table.add_column("how often", justify="right")
    table.add_column("faults", justify="right")
    for check, rule in CHECKS.items():
        found = sum(fault.check == check for fault in faults)
        table.add_row(check, rule, str(summary.checked.get(check, 0)), str(found or ""))
    show(table)
    print(counted(len(faults), "fault") if faults else "no faults")


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
    from services.cli.facts import facts, word

    envelope = recorded.envelope
    place = f"{recorded.sequence}.{recorded.position}"
    kind = envelope.type.removeprefix("caledger.").rpartition(".")[0]
    about = word(envelope.subject)
    told = [about, *(fact for fact in facts(recorded.event) if not fact.endswith(f"={about}"))]
    if envelope.term is not None:
        told.append(f"term={envelope.term}")
    return f"{place:>10}  {recorded.stored:%Y-%m-%d %H:%M:%S}Z  {kind:<22} {' '.join(told)}"


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
