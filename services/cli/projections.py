"""`caledger projections`: the node's read models, which can be thrown away and made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import CliError, Exit, FolderOption, JsonOption, node_of, run, say
from services.cli.common import show as show_table

if TYPE_CHECKING:
    from projections.issuance import IssuanceReader
    from services.cli.selection import Selection
    from services.config import NodeConfig

app = typer.Typer(
    no_args_is_help=True, help="The node's projections of the ledger (projections.sqlite)."
)


@app.command("rebuild")
def rebuild(json: JsonOption = False, data: FolderOption = None) -> None:
    """Fold the whole ledger into a new file, and put it in the old one's place.

    Works while everything runs: the old file serves until the new one is complete. The rows are
    the same, byte for byte.
    """
    node = node_of(data)
    with _told():
        position = run(_rebuild(node))
    if json:
        _print_json({"file": str(node.projections_file), "position": position})
    else:
        say(f"{node.projections_file}: rebuilt up to sequence {position}")


@app.command("position")
def position(json: JsonOption = False, data: FolderOption = None) -> None:
    """Print the ledger's sequence that the projections are up to."""
    from projections.store import read_meta

    with _told():
        reached = read_meta(node_of(data).projections_file).position
    if json:
        _print_json({"position": reached})
    else:
        print(reached)


@app.command("show")
def show(
    identity: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Certificates of a SPIFFE id or of service.NAME, the newest first."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: JsonOption = False,
    data: FolderOption = None,
) -> None:
    """Show what the projections hold, with the sequence that it is true at."""
    from projections.issuance import IssuanceReader
    from projections.store import read_meta
    from services.cli.selection import Selection

    asked = Selection.of(identity=identity)
    file = node_of(data).projections_file
    with _told():
        read_meta(file)
        reader = IssuanceReader(file)
        try:
            if identity is None:
                _counts(reader, json=json)
            else:
                _leaves(reader, asked, limit, json=json)
        finally:
            reader.close()


def _counts(reader: IssuanceReader, *, json: bool) -> None:
    counts = reader.counts()
    if json:
        _print_json(counts)
        return
    print(f"ledger sequence    {counts.position}")
    print(f"leaves issued      {counts.leaves}")
    print(f"  irregular        {counts.irregular}")
    print(f"requests refused   {counts.refusals + counts.refusals_counted}")


def _leaves(reader: IssuanceReader, asked: Selection, limit: int, *, json: bool) -> None:
    if asked.spiffe_id is not None:
        at, found = reader.by_identity(asked.spiffe_id, limit=limit)
    else:
        assert asked.service is not None, "an identity is one or the other"
        at, found = reader.by_name("service", asked.service, limit=limit)
    if json:
        _print_json({"position": at, "leaves": found})
        return
    from rich.table import Table

    print(f"{asked.spiffe_id or f'service.{asked.service}'}, as of ledger sequence {at}")
    table = Table()
    for column in ("sequence", "serial", "request id", "not before", "not after", "irregular"):
        table.add_column(column, overflow="fold")
    for issued in found:
        leaf = issued.leaf
        table.add_row(
            f"{issued.sequence}.{issued.position}",
            leaf.serial,
            leaf.request_id or "",
            f"{leaf.not_before:%Y-%m-%d %H:%M}",
            f"{leaf.not_after:%Y-%m-%d %H:%M}",
            issued.irregular or "",
        )
    show_table(table)


async def _rebuild(node: NodeConfig) -> int:
    from services.replicator.rebuild import rebuild as fold_all
    from services.startup import opened

    async with opened(node, "replicator") as worker:
        return await fold_all(worker.ledger, datacenter=node.datacenter, path=node.projections_file)


def _print_json(document: object) -> None:
    import msgspec

    print(msgspec.json.encode(document).decode())


@contextmanager
def _told() -> Iterator[None]:
    """Tell what is wrong with the file, or with rebuilding it."""
    from projections.disk import ProjectionFileError
    from projections.issuance import WentBackError
    from services.replicator.rebuild import RebuildRunningError

    try:
        yield
    except (ProjectionFileError, RebuildRunningError, WentBackError) as error:
        raise CliError(str(error), Exit.FAULT) from error
