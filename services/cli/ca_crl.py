"""`caledger ca crl`: the revocation lists, for who verifies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli.ca_options import TimeoutOption
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
from services.wording import moment

if TYPE_CHECKING:
    from projections.bundle import Roots
    from services.cli.administering import Session
    from services.cli.common import Target
    from services.outcomes import RevocationLists

_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")


def crl(
    issuer: Annotated[
        str | None,
        typer.Option(
            metavar="KEYID",
            help="Only the list of the issuer whose key this is: 64 hex digits, as this command "
            "and `caledger status` show them.",
        ),
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
    if issuer is not None:
        from services.cli.selection import read_key_id

        issuer = read_key_id(issuer)
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    found, bundle = run(_crl(target, issuer, timeout))
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
            f"until {moment(one.next_update)}"
        )
    for note in lists_elsewhere(bundle):
        say(note)


def lists_elsewhere(bundle: Roots) -> Iterator[str]:
    """Say below which roots a verifier needs lists that are not ours."""
    for root in bundle.roots:
        if root.root_cert.count(_CERTIFICATE) > 1:
            yield (
                f"root {root.id} stands below others: -crl_check_all takes the lists of those CAs "
                "too, which they issue themselves"
            )


async def _crl(target: Target, issuer: str | None, timeout: float) -> tuple[RevocationLists, Roots]:
    """Return the lists, and the trust bundle."""
    from services.cli.administering import session
    from services.cli.signing_files import read_bundle

    async with session(target, timeout=timeout) as it:
        found = await every_list(it, issuer)
        return found, read_bundle(await it.client.stored_roots(timeout=it.left))


async def every_list(it: Session, issuer: str | None = None) -> RevocationLists:
    """Return the lists; those that did not fit the answer are asked for one by one."""
    from msgspec.structs import replace

    from services.cli.administering import read
    from services.outcomes import RevocationLists

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
