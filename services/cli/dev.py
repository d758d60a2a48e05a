"""`caledger dev`: nats-server and all workers of a datacenter, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.common import (
    CliError,
    Exit,
    FolderOption,
    folder,
    say,
    told,
)
from services.cli.run import MetricsPortOption

DatacenterOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the datacenter (dc1).")
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--nats-port",
        min=1,
        max=65535,
        help="Port of nats-server (4222, or the next one that is free).",
    ),
]
ListenOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address that nats-server listens on (127.0.0.1). Any that others can reach needs "
        "TLS, and has it.",
    ),
]
AdvertiseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--advertise",
        metavar="NAME_OR_ADDRESS",
        help="What else other machines call this one, for the server's TLS certificate; "
        "repeatable, and kept.",
    ),
]
TlsOption = Annotated[bool, typer.Option("--tls", help="TLS on loopback too.")]


def checked_trust_domain(name: str | None) -> str | None:
    """Return a trust domain as it will be written; raises BadParameter before anything is made."""
    from services.pki import spiffe

    try:
        return None if name is None else spiffe.check_trust_domain(name)
    except spiffe.SpiffeIdError as error:
        raise typer.BadParameter(str(error)) from error


def checked_rate(rate: float | None) -> float | None:
    """Return a rate limit; raises BadParameter before anything is made."""
    from services import config

    try:
        return None if rate is None else config.check_rate(rate)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


TrustDomainOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=checked_trust_domain,
        help="Trust domain, fixed for the life of the ledger (<cluster id>.consul).",
    ),
]


def dev(
    data: FolderOption = None,
    nats_port: PortOption = None,
    datacenter: DatacenterOption = None,
    listen: ListenOption = None,
    tls: TlsOption = False,
    advertise: AdvertiseOption = None,
    trust_domain: TrustDomainOption = None,
    csr_max_per_second: Annotated[
        float | None,
        typer.Option(
            callback=checked_rate, help="Rate limit of the CA, for a new ledger (0: off)."
        ),
    ] = None,
    signers: Annotated[int, typer.Option(min=1, max=64, help="How many signers; one a core.")] = 2,
    metrics_port: MetricsPortOption = None,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="Logs without colours (else NO_COLOR).")
    ] = False,
) -> None:
    """Run a whole datacenter here: nats-server and every worker, each a process of its own.

    Prints one line on stdout once any signing request would be answered; logs go to stderr. Ctrl-C
    or SIGTERM stops everything; the next start goes on with the same ledger.
    """
    import asyncio
    import os
    import sys

    from services.cli.development import run_dev
    from services.node_file import NodeOptions
    from services.process import log_to_stderr
    from services.supervisor import CannotStartError

    log_to_stderr(level="warning")
    options = NodeOptions(
        data=folder(data),
        datacenter=datacenter,
        trust_domain=trust_domain,
        csr_max_per_second=csr_max_per_second,
        default_csr_max_per_second=0,
        listen=listen,
        port=nats_port,
        tls=tls,
        advertise=tuple(advertise or ()),
    )
    colors = sys.stderr.isatty() and not no_color and not os.environ.get("NO_COLOR")
    try:
        with told():
            asyncio.run(run_dev(options, signers=signers, colors=colors, metrics_port=metrics_port))
    except CannotStartError as error:
        raise CliError(f"gave up: {error}", Exit.FAULT) from error
    say("stopped")
