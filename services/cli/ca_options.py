"""Options that several commands of `caledger ca` have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import CliError, Exit

ConfigFileOption = Annotated[
    Path | None,
    typer.Option(
        "--config-file",
        "-config-file",
        "--config",
        metavar="FILE",
        help="The whole configuration: JSON in either of Consul's forms; - is stdin.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force-without-cross-signing",
        "-force-without-cross-signing",
        help="Rotate although the old root cannot sign the new one. As in Consul this counts, and "
        "not what the file says.",
    ),
]
RotateForceOption = Annotated[
    bool,
    typer.Option(
        "--force-without-cross-signing",
        "-force-without-cross-signing",
        help="Without the old root's signature of the new one: only who has the new bundle accepts "
        "new leaves then.",
    ),
]
WaitOption = Annotated[
    float | None,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="Between the publication of a new root and its first leaf, for large meshes.",
    ),
]
CasOption = Annotated[
    int | None,
    typer.Option(
        "--cas",
        "--modify-index",
        metavar="INDEX",
        min=1,
        help="Only if this is still the configuration's ModifyIndex.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds to wait for an answer; a large RSA key takes several."),
]


def _request_id(text: str | None) -> str | None:
    """Return the id of a command; raises CliError before anything is sent."""
    from events.base import REQUEST_ID

    if text is not None and not REQUEST_ID.fullmatch(text):
        raise CliError(
            f"--request-id {text!r}: a request id has 1 to 64 of A-Z, a-z, 0-9, _ and -", Exit.USAGE
        )
    return text


RequestIdOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        callback=_request_id,
        help="Ask again for what became of the command of this id: it is carried out once.",
    ),
]
