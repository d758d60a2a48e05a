"""The `caledger` command: every subcommand, and how it ends."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from services.cli import dev, init, ledger, projections, roots, run, schema, sign, user
from services.cli.common import CliError, Exit

_NOT_WRITTEN: Final = (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
_CLOSED_PIPE: Final = 141  # as of a program that SIGPIPE ended, like git: nothing was found


class _Commands(TyperGroup):
    """Every subcommand; what stdout does not take is told as such."""

    def invoke(self, ctx: Any) -> Any:
        """Run a subcommand, and see its output off; a file that failed has told its own name."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.filename is not None or error.errno not in _NOT_WRITTEN:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest of it
            if error.errno == errno.EPIPE:
                raise typer.Exit(_CLOSED_PIPE) from None
            raise CliError(f"cannot write: {error.strerror}", Exit.USAGE) from error


app = typer.Typer(
    cls=_Commands,
    name="caledger",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A certificate authority whose only source of truth is a ledger on NATS JetStream.",
    epilog="Exit codes: 0 done; 1 refused by the CA, or a fault found; 2 options, files or "
    "configuration that cannot be used; "
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
