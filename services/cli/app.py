"""The `caledger` command: every subcommand, and how it ends."""

from __future__ import annotations

import sys

import typer

from services.cli import dev, init, ledger, projections, roots, run, schema, sign, user
from services.cli.common import CliError

app = typer.Typer(
    name="caledger",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A certificate authority whose only source of truth is a ledger on NATS JetStream.",
    epilog="Exit codes: 0 done; 1 refused, or a fault found; 2 usage; "
    "3 not reachable, or no answer in time; 4 not permitted.",
)
app.command("dev")(dev.dev)
app.command("init")(init.init)
app.command("run")(run.run_worker)
app.add_typer(sign.app, name="sign")
app.add_typer(roots.app, name="roots")
app.add_typer(ledger.app, name="ledger")
app.add_typer(user.app, name="user")
app.add_typer(projections.app, name="projections")
app.command("schema")(schema.schema)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        app()
    except CliError as error:
        print(f"caledger: {error}", file=sys.stderr)
        sys.exit(error.code)
