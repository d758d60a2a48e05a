"""`caledger run`: one worker, as systemd, Kubernetes or `caledger dev` start it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="BASE",
        min=1,
        max=65_000,
        help="Serve /metrics, /healthz and /readyz of the leader-elector here, of root-manager, "
        "replicator and signers on the ports that follow (else as caledger.toml says; else not).",
    ),
]


class Worker(enum.StrEnum):
    """The workers of a node."""

    LEADER_ELECTOR = "leader-elector"
    ROOT_MANAGER = "root-manager"
    SIGNER = "signer"
    REPLICATOR = "replicator"


class Style(enum.StrEnum):
    """How logs look."""

    PLAIN = "plain"
    COLOR = "color"
    JSON = "json"


def run_worker(
    worker: Annotated[Worker, typer.Argument(help="Which worker.")],
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The node's caledger.toml.")
    ],
    slot: Annotated[
        int, typer.Option(min=0, help="Which of this node's signers: each has its own.")
    ] = 0,
    log_format: Annotated[Style, typer.Option(help="How logs on stderr look.")] = Style.PLAIN,
    metrics_port: MetricsPortOption = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run one worker until SIGTERM.

    Exit codes: 0 stopped as told; 1, 2, 4 starting again does not help (what it found is not right,
    its configuration, its credentials); anything else: start it again.
    """
    from services import process

    raise typer.Exit(
        process.run_worker(
            worker.value,
            config,
            slot=slot,
            style=log_format.value,
            with_parent=with_parent,
            metrics_port=metrics_port,
        )
    )
