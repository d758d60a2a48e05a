"""`caledger ca revoke` and `caledger ca crl`: what is not accepted although it has not expired."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
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
    told,
)

if TYPE_CHECKING:
    from events.revocation import RevocationReason
    from services.administration_client import ChosenLeaves
    from services.cli.administering import Session
    from services.cli.common import Target
    from services.outcomes import RevocationLists

SerialOption = Annotated[
    list[str] | None, typer.Option(metavar="SERIAL", help="Hex, with colons or not; repeatable.")
]
IdentityOption = Annotated[
    str | None,
    typer.Option(
        metavar="IDENTITY",
        help="Every live leaf of service.NAME, agent.NAME, gateway, server, or a SPIFFE id.",
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
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")


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
    one of them is told to ask for another on ca.<datacenter>.reissue.

    Example: caledger ca revoke --identity service.web --reason keyCompromise
    """
    if not (serial or identity or signer or root or issued_between):
        raise CliError(
            "say which: --serial, --identity, --signer, --root, or --issued-between", Exit.USAGE
        )
    chosen = _chosen(serial or [], signer, root, issued_between)
    why = reason_of(reason)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    answer = run(
        _revoke(target, chosen, identity, why, timeout, request_id, dry_run=dry_run, yes=yes)
    )
    tell(answer, json=json)


def crl(
    issuer: Annotated[
        str | None,
        typer.Option(metavar="KEYID", help="Only the list of the issuer whose key this is."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A file for each issuer, crl-KEYID.pem, in this folder."),
    ] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Get the revocation lists of every issuer that is trusted: PEM, one after the other.

    For `openssl verify -crl_check_all`: all of them go into one file, beside the trust bundle.

    Example: caledger ca crl > crls.pem; openssl verify -crl_check_all -CAfile web-roots.pem
    -CRLfile crls.pem -untrusted web.pem web.pem
    """
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    found = run(_crl(target, issuer, timeout))
    if json:
        import msgspec

        print(msgspec.json.encode(found).decode())
        if out is None:
            return
    if out is None:
        print("".join(one.crl or "" for one in found.lists), end="")
    else:
        with told():
            _write(out, found)
    for one in found.lists:
        say(
            f"{one.issuer} {one.issuer_key_id}: number {one.number}, {one.revoked} revoked, "
            f"until {one.next_update:%Y-%m-%d %H:%M:%SZ}"
        )


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
    from services.cli.selection import read_serial
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
        serials=tuple(map(read_serial, serials)) or None,
        signer=signer,
        root_id=root,
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
    from services.cli.ca_plan import outcome
    from services.cli.signing_files import read_bundle
    from services.outcomes import Outcome

    async with session(target, timeout=timeout, request_id=request_id) as it:
        if identity is not None:
            bundle = read_bundle(await it.client.stored_roots(timeout=it.left))
            whole = spiffe_id(
                identity, trust_domain=bundle.trust_domain, datacenter=target.datacenter
            )
            chosen = replace(chosen, identity=whole)
        answer = await it.ca.revoke(chosen, dry_run=True, reason=reason, timeout=it.left)
        counted = read(answer, Outcome)
        if dry_run:
            return answer
        if not counted.live_leaves and request_id is None:
            return await _command(it, chosen, reason)  # says so
        say("\n".join(outcome(counted)))
        if not yes:
            await _confirm(it)
        return await _command(it, chosen, reason)


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


async def _crl(target: Target, issuer: str | None, timeout: float) -> RevocationLists:
    """Return the lists; those that did not fit the answer are asked for one by one."""
    from msgspec.structs import replace

    from services.cli.administering import read, session
    from services.outcomes import RevocationLists

    async with session(target, timeout=timeout) as it:

        async def ask(which: str | None) -> RevocationLists:
            answer = await it.ca.revocation_lists(issuer=which, timeout=it.left)
            return read(answer, RevocationLists)

        found = await ask(issuer)
        whole = [
            each if each.crl is not None else (await ask(each.issuer_key_id)).lists[0]
            for each in found.lists
        ]
    return replace(found, lists=tuple(whole))


def _write(folder: Path, found: RevocationLists) -> None:
    from services.nats_access.files import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    for one in found.lists:
        if not _KEY_ID.fullmatch(one.issuer_key_id):  # it becomes a file's name
            raise CliError("an answer names an issuer by no key id", Exit.FAULT)
        write_atomically(folder / f"crl-{one.issuer_key_id}.pem", (one.crl or "").encode())
