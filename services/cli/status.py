"""`caledger status`: can it sign, who does, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

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
    show,
)
from services.wording import counted, moment

if TYPE_CHECKING:
    from services.cli.common import Target
    from services.status import FoundStatus, LeaderStatus, Status


def status(
    json: JsonOption = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 5.0,
    data: DataOption = None,
    context: ContextOption = None,
    user: UserOption = None,
    datacenter: DatacenterOption = None,
) -> None:
    """Show the state of the CA: leader, certificates, signers, projections, warnings.

    Exit codes: 0 it can sign for every identity; 1 it cannot, stderr says why; 3 nobody answers.
    """
    import msgspec

    target = find(data=data, context=context, user=user, datacenter=datacenter)
    told = run(_status(target, timeout))
    if json:
        print(msgspec.json.encode(told).decode())
    else:
        _show(told)
    if not told.can_sign:
        raise CliError(f"the CA cannot sign: {'; '.join(told.why)}", Exit.FAULT)


async def _status(target: Target, timeout: float) -> Status:
    from services.asking import NoAnswerError

    async with target.client(timeout=timeout) as client:
        try:
            return await client.status(timeout=timeout)
        except NoAnswerError as error:
            if not client.nc.is_connected:
                raise
            raise NoAnswerError(
                f"nats-server is there, and no root-manager of {target.datacenter} answers within "
                f"{timeout:g} s: none runs, or none is well"
            ) from error


def _show(told: Status) -> None:
    trust_domain = next((dc.trust_domain for dc in told.datacenters), None)
    _line("datacenter", f"{told.datacenter} (primary), trust domain {trust_domain or 'none yet'}")
    _line("state", f"{told.state}, {'can sign' if told.can_sign else 'cannot sign'}")
    _line("leader", _leader(told.leader) if told.leader is not None else "nobody")
    _line("provider", told.provider.name or "none yet")
    for failure in told.provider.failures:
        often = counted(failure.attempts, "time")
        again = moment(failure.next_try)
        _line("", f"{failure.what} fails, {often}, again {again}: {failure.error}")
    _certificates(told)
    end = "unknown" if told.ledger_sequence is None else str(told.ledger_sequence)
    _line("ledger", f"ends at {end}, authority at {told.position}")
    if told.durable_requests_waiting is not None:
        _line("queue", f"{counted(told.durable_requests_waiting, 'durable request')} waiting")
    if told.faults is not None:
        _line("void", _found(told.faults.void))
        _line("irregular", _found(told.faults.irregular))
    for warning in told.warnings:
        _line(warning.level, warning.message)
    _signers(told)
    _projections(told)


def _certificates(told: Status) -> None:
    if (root := told.active_root) is not None:
        _line("root", f"{root.root_id}, {root.private_key_type} {root.private_key_bits}")
        _line("", f"until {root.not_after:%Y-%m-%d}, {_left(root.seconds_left)}")
    for other in told.roots:
        if other.state != "active":
            _line("", f"{other.state}: {other.root_id}, {_left(other.seconds_left)}")
    if (signing := told.signing_cert) is not None:
        _line("signed by", f"{signing.issuer}, key {signing.key_id}")
        _line("", f"until {signing.not_after:%Y-%m-%d}, {_left(signing.seconds_left)}")
    if told.rotation is not None:
        at = moment(told.rotation.activate_at)
        _line("rotation", f"to {told.rotation.root_id}, not before {at}")
    if told.renewal is not None:
        _line("renewal", f"of the intermediate, key {told.renewal.key_id}")


def _signers(told: Status) -> None:
    from rich.table import Table

    if told.unassigned_partitions:
        _line("no signer", f"partitions {told.unassigned_partitions}")
    if not told.signers:
        return
    table = Table()
    for column in (
        "signer",
        "node",
        "slot",
        "state",
        "partitions",
        "",
        "grant",
        "a second",
        "at once",
    ):
        table.add_column(column, overflow="fold")
    for signer in told.signers:
        state = "stopping" if signer.stopping else "alive"
        table.add_row(
            signer.signer,
            signer.node,
            str(signer.slot),
            state if signer.alive else "gone",
            str(signer.partitions),
            signer.ranges,
            str(signer.grant_sequence or ""),
            f"{signer.rate_per_second:g}" if signer.rate_per_second else "no limit",
            str(signer.concurrent or "no limit"),
        )
    show(table)


def _projections(told: Status) -> None:
    from rich.table import Table

    table = Table()
    for column in ("projections of", "position", "lag"):
        table.add_column(column)
    for each in told.projections:
        table.add_row(each.node, str(each.position), "" if each.lag is None else str(each.lag))
    show(table)


def _line(name: str, text: str) -> None:
    print(f"{name:<11} {text}")


def _leader(leader: LeaderStatus) -> str:
    since = f", since {moment(leader.since)}" if leader.since is not None else ""
    return f"{leader.node}, term {leader.term}{since}"


def _found(found: FoundStatus) -> str:
    if not found.count:
        return "none"
    return f"{found.count}, at {_list(found.first)}"


def _list(sequences: Iterable[int]) -> str:
    return ", ".join(map(str, sequences))


def _left(seconds: int) -> str:
    """Write how long something is valid, in the largest unit that says enough."""
    if seconds < 0:
        return "expired"
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} left"
    return f"{seconds} seconds left"
