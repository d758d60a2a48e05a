"""`caledger ca revoke`: leaves that are not accepted although they have not expired."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli.ca_options import RequestIdOption, TimeoutOption
from services.cli.common import (
    CliError,
    ContextOption,
    DatacenterOption,
    DataOption,
    Exit,
    JsonOption,
    UserOption,
    find,
    run,
    say,
)

if TYPE_CHECKING:
    from events.revocation import RevocationReason
    from services.administration_client import ChosenLeaves
    from services.cli.administering import Session
    from services.cli.common import Target

SerialOption = Annotated[
    list[str] | None, typer.Option(metavar="SERIAL", help="Hex, with colons or not; repeatable.")
]
IdentityOption = Annotated[
    str | None,
    typer.Option(
        metavar="IDENTITY",
        help="Every live leaf of service.NAME, agent.NAME, gateway, server, or a SPIFFE id. Of "
        "--serial, --identity, --signer and --root one can be said.",
    ),
]
IssuedBetweenOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="FROM TO",
        help="Issued in this time, alone or together with another choice: "
        "2026-08-01T12:00:00Z, or 2h for two hours ago, or now.",
    ),
]

_REASONS: Final[Mapping[str, RevocationReason]] = {  # RFC 5280, 5.3.1
    "unspecified": "unspecified",
    "keyCompromise": "key_compromise",
    "cACompromise": "ca_compromise",
    "affiliationChanged": "affiliation_changed",
    "superseded": "superseded",
    "cessationOfOperation": "cessation_of_operation",
    "privilegeWithdrawn": "privilege_withdrawn",
}
_RUN: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")  # a ULID
_AGO: Final = re.compile(r"(\d{1,9}(\.\d+)?[dhms])+")


def revoke(
    serial: SerialOption = None,
    identity: IdentityOption = None,
    issued_between: IssuedBetweenOption = None,
    signer: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="All that this run of a signer issued."),
    ] = None,
    root: Annotated[
        str | None, typer.Option(metavar="ROOT_ID", help="All below this root.")
    ] = None,
    reason: Annotated[
        str, typer.Option(metavar="REASON", help=f"{', '.join(_REASONS)} (RFC 5280).")
    ] = "unspecified",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many live leaves, and whose.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    request_id: RequestIdOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Revoke certificates for good: the lists of their issuers say so from then on.

    What it concerns is counted first, and confirmed on a terminal; elsewhere say --yes. Who holds
    one of them is told to ask for another on ca.<datacenter>.reissue. Serials that are unknown or
    expired are named, and it ends with 1 where all are.

    Example: caledger ca revoke --identity service.web --reason keyCompromise
    """
    if not (serial or identity or signer or root or issued_between):
        raise CliError(
            "say which: --serial, --identity, --signer, --root, or --issued-between", Exit.USAGE
        )
    if sum(map(bool, (serial, identity, signer, root))) > 1:
        raise CliError(
            "say one of --serial, --identity, --signer, --root; --issued-between goes with each",
            Exit.USAGE,
        )
    chosen = _chosen(serial or [], signer, root, issued_between)
    why = reason_of(reason)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    answer = run(
        _revoke(target, chosen, identity, why, timeout, request_id, dry_run=dry_run, yes=yes)
    )
    tell(answer, json=json)


def tell(answer: bytes, *, json: bool) -> None:
    """Say what a revocation came to; raises CliError where a list does not say so yet."""
    from services.cli.administering import read
    from services.cli.ca_plan import outcome
    from services.outcomes import Outcome

    came_to = read(answer, Outcome)
    print(answer.decode() if json else "\n".join(outcome(came_to)))
    if missing := came_to.lists_missing:
        raise CliError(
            "it is recorded for good, but who reads the lists accepts them still: no list could be "
            f"issued by {', '.join(missing)}; it is tried again, `caledger status` says what fails",
            Exit.FAULT,
        )


def between(begin: str, end: str, *, now: datetime) -> tuple[datetime, datetime]:
    """Read the time in which leaves were issued; raises CliError."""
    first, last = moment(begin, now=now), moment(end, now=now)
    if not first < last:
        raise CliError(f"--issued-between {begin} {end}: the first must be earlier", Exit.USAGE)
    return first, last


def moment(text: str, *, now: datetime) -> datetime:
    """Read a moment of RFC 3339, or how long ago one was; raises CliError."""
    import durationpy

    if text == "now":
        return now
    with suppress(ValueError, OverflowError, durationpy.DurationError):
        if _AGO.fullmatch(text):
            return now - durationpy.from_str(text)
        if (at := datetime.fromisoformat(text)).tzinfo is not None:
            return at
    raise CliError(
        f"{text!r} is no moment: 2026-08-01T12:00:00Z, 2h for two hours ago, or now", Exit.USAGE
    )


def reason_of(text: str) -> RevocationReason:
    """Read a reason, however it is written; raises CliError."""
    wanted = text.replace("_", "").lower()
    for name, reason in _REASONS.items():
        if name.lower() == wanted:
            return reason
    raise CliError(f"{text!r} is no reason: {', '.join(_REASONS)}", Exit.USAGE)


def spiffe_id(identity: str, *, trust_domain: str, datacenter: str) -> str:
    """Return the SPIFFE id of an identity as it is typed; raises CliError, SpiffeIdError."""
    from events.leaves import IDENTITY_KINDS
    from events.subjects import NAMELESS_KINDS
    from services.pki import spiffe

    if identity.startswith("spiffe://"):
        spiffe.parse(identity)
        return identity
    kind, dot, name = identity.partition(".")
    if {"*", ">"} & set(name):  # who writes `service.*` does not mean the service of that name
        raise CliError(
            f"{identity!r}: one identity can be named, and no pattern; many are chosen by "
            "--issued-between, --signer or --root",
            Exit.USAGE,
        )
    for known in IDENTITY_KINDS:
        if kind == known and (kind in NAMELESS_KINDS) == (not dot) and bool(name) == bool(dot):
            return spiffe.identity_id(known, name, trust_domain=trust_domain, datacenter=datacenter)
    raise CliError(
        f"{identity!r} is no identity: service.NAME, agent.NAME, gateway, server, or a SPIFFE id",
        Exit.USAGE,
    )


def _chosen(
    serials: list[str],
    signer: str | None,
    root: str | None,
    issued_between: tuple[str, str] | None,
) -> ChosenLeaves:
    """Return which leaves are meant, but for their identity; raises CliError."""
    from services.administration_client import ChosenLeaves
    from services.cli.selection import read_root_id, read_serial
    from services.clock import SystemClock

    begin = end = None
    if issued_between is not None:
        begin, end = between(*issued_between, now=SystemClock().now())
    if signer is not None and not _RUN.fullmatch(signer):
        raise CliError(
            f"{signer!r} is no run of a signer: 26 characters, as in `source` of what it issued",
            Exit.USAGE,
        )
    return ChosenLeaves(
        serials=tuple(dict.fromkeys(map(read_serial, serials))) or None,
        signer=signer,
        root_id=None if root is None else read_root_id(root),
        issued_from=begin,
        issued_to=end,
    )


async def _revoke(
    target: Target,
    chosen: ChosenLeaves,
    identity: str | None,
    reason: RevocationReason,
    timeout: float,
    request_id: str | None,
    *,
    dry_run: bool,
    yes: bool,
) -> bytes:
    """Count, ask, revoke; the time in which somebody reads the question does not count."""
    from msgspec.structs import replace

    from services.cli.administering import read, session
    from services.cli.again import with_values
    from services.cli.ca_plan import outcome
    from services.cli.signing_files import read_bundle
    from services.outcomes import Outcome

    async with session(target, timeout=timeout, request_id=request_id) as it:
        if chosen.issued_from is not None and chosen.issued_to is not None:
            # "2h" would be another time when it is typed again.
            times = chosen.issued_from.isoformat(), chosen.issued_to.isoformat()
            it.typed = with_values("--issued-between", *times)
        if identity is not None:
            bundle = read_bundle(await it.client.stored_roots(timeout=it.left))
            whole = spiffe_id(
                identity, trust_domain=bundle.trust_domain, datacenter=target.datacenter
            )
            chosen = replace(chosen, identity=whole)
        answer = await it.ca.revoke(chosen, dry_run=True, reason=reason, timeout=it.left)
        counted = read(answer, Outcome)
        found = await _name_the_others(it, chosen, counted.live_leaves or 0)
        if not found and request_id is None:
            raise CliError("nothing was revoked: none of these is a live certificate's", Exit.FAULT)
        if dry_run:
            return answer
        if not counted.live_leaves and request_id is None:
            return await _command(it, chosen, reason)  # says so
        say("\n".join(outcome(counted)))
        if not yes:
            await _confirm(it)
        return await _command(it, chosen, reason)


async def _name_the_others(it: Session, chosen: ChosenLeaves, live: int) -> bool:
    """Say which serials are of no leaf that could be revoked; return False where all are unknown.

    Those that were revoked before are known.
    """
    from msgspec.structs import replace

    from services.cli.administering import read
    from services.cli.ca_crl import every_list
    from services.cli.ca_serials import listed, not_live
    from services.outcomes import Outcome

    async def count(serials: Sequence[str]) -> int:
        some = replace(chosen, serials=tuple(serials))
        answer = await it.ca.revoke(some, dry_run=True, timeout=it.left)
        return read(answer, Outcome).live_leaves or 0

    serials = chosen.serials or ()
    others = await not_live(serials, live, count)
    if not others:
        return True
    before = listed(others, await every_list(it))
    unknown = [serial for serial in others if serial not in before]
    for what, which in (("revoked before", sorted(before)), ("unknown or expired", unknown)):
        if which:
            say(f"{what}: {', '.join(map(_shown, which))}")
    return len(unknown) < len(serials)


def _shown(serial: str) -> str:
    from services.pki.pem import colon_hex

    return colon_hex(serial)


async def _command(it: Session, chosen: ChosenLeaves, reason: RevocationReason) -> bytes:
    async with it.commanding():
        return await it.ca.revoke(chosen, reason=reason, request_id=it.request_id, timeout=it.left)


async def _confirm(it: Session) -> None:
    """Ask whoever sits at the terminal; raises CliError where nobody does, or says no."""
    import asyncio

    if not sys.stdin.isatty():
        raise CliError("nothing was revoked: say --yes, there is no terminal to ask", Exit.USAGE)
    with it.paused():
        if not await asyncio.to_thread(typer.confirm, "Revoke them?", err=True):
            raise CliError("nothing was revoked", Exit.FAULT)
