"""`caledger init`: everything that a node needs on disk and in NATS, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import FolderOption, folder, run, say, told
from services.cli.dev import (
    AdvertiseOption,
    DatacenterOption,
    ListenOption,
    PortOption,
    TlsOption,
    TrustDomainOption,
    checked_rate,
)


def init(
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
            callback=checked_rate, help="Rate limit of the CA (50, as in Consul; 0: off)."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A nats-server that runs elsewhere, or several, by commas."
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Transport CA of that server (PEM).")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Copies of each stream.")] = 1,
) -> None:
    """Make a node's folder and, once and never again, the streams of its datacenter.

    Repeating it is safe: what is there is kept. With --server, start that server with what this
    writes below DIR/nats (server.conf as an example, accounts.conf as it is), then repeat it.
    """
    from services.cli.development import one_at_a_time
    from services.nats_access import provision, users
    from services.node_file import NodeOptions, config_file
    from services.setup_node import set_up

    options = NodeOptions(
        data=folder(data),
        datacenter=datacenter,
        trust_domain=trust_domain,
        csr_max_per_second=csr_max_per_second,
        listen=listen,
        port=nats_port,
        tls=tls,
        advertise=tuple(advertise or ()),
        server=server,
        ca=ca,
        replicas=replicas,
    )
    with one_at_a_time(options.data):
        run(set_up(options))
        with told():
            for line in users.away(provision.load(options.data)):
                say(line)
    say(f"ready to run: {config_file(options.data)}")
