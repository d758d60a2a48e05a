"""`caledger roots`: the trust bundle, and how it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from services.cli.common import (
    ContextOption,
    DatacenterOption,
    DataOption,
    JsonOption,
    UserOption,
    find,
    run,
)

if TYPE_CHECKING:
    from services.cli.common import Target

app = typer.Typer(no_args_is_help=True, help="The trusted roots.")


@app.command("get")
def get(
    json: JsonOption = False,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Show the trust bundle as it is now."""
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    _show(run(_get(target)), json)


@app.command("watch")
def watch(
    json: JsonOption = False,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Show the trust bundle, then each change of it, until Ctrl-C."""
    target = find(data=data, context=context, user=user, datacenter=datacenter)
    run(_watch(target, json), talkative=True)


async def _get(target: Target) -> bytes:
    async with target.client() as client:
        return await client.roots()


async def _watch(target: Target, json: bool) -> None:
    async with target.client() as client:
        async for bundle in client.watch_roots():
            _show(bundle, json)


def _show(bundle: bytes, json: bool) -> None:
    if json:
        print(bundle.decode(), flush=True)
        return
    from services.cli.signing_files import read_bundle

    read = read_bundle(bundle)
    print(f"trust domain {read.trust_domain}, ledger sequence {read.ledger_sequence}")
    for root in read.roots:
        print(f"root {root.id}")
        print(f"  name   {root.name}{' (active)' if root.active else ''}")
        print(f"  valid  {root.not_before:%Y-%m-%d} to {root.not_after:%Y-%m-%d}")
        print(f"  key    {root.private_key_type} {root.private_key_bits}", flush=True)
