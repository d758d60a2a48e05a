"""The `caledger` command: every subcommand, and how it ends."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from services.cli import ca, dev, init, ledger, projections, roots, run, schema, sign, status, user
from services.cli.common import CliError, Exit

_NOT_WRITTEN: Final = (
    *(errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO),
    errno.EBADF,  # `>&-`
)
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
            not_taken = _not_taken(error)
            if not_taken is None:
                raise
            if error.errno == errno.EPIPE:
                raise typer.Exit(_CLOSED_PIPE) from None
            raise not_taken from error


app = typer.Typer(
    cls=_Commands,
    name="caledger",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A certificate authority whose only source of truth is a ledger on NATS JetStream.",
    epilog="Exit codes: 0 done; 1 refused by the CA, or a fault found; 2 options that cannot be "
    "meant, or files that cannot be read; "
    "3 not reachable, or no answer in time; 4 not permitted.",
)
app.command("dev")(dev.dev)
app.command("init")(init.init)
app.command("run")(run.run_worker)
app.add_typer(sign.app, name="sign")
app.command("status")(status.status)
app.add_typer(roots.app, name="roots")
app.add_typer(ca.app, name="ca")
app.add_typer(ledger.app, name="ledger")
app.add_typer(user.app, name="user")
app.add_typer(projections.app, name="projections")
app.command("schema")(schema.schema)


def main() -> None:
    """Run the command line, and end as it says."""
    _open_what_is_closed()
    try:
        app()
    except CliError as error:
        _end(error)
    except OSError as error:  # of `--help`, which no command has begun for
        not_taken = _not_taken(error)
        if not_taken is None:
            raise
        _end(not_taken)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich and click exit with 1
            sys.exit(_CLOSED_PIPE)
        raise


def _end(error: CliError) -> NoReturn:
    print(f"caledger: {error}", file=sys.stderr)
    sys.exit(error.code)


def _not_taken(error: OSError) -> CliError | None:
    """Return how to tell that stdout does not take it, and drop the rest; None: it is not that."""
    if error.filename is not None or error.errno not in _NOT_WRITTEN:
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CliError(f"cannot write: {error.strerror}", Exit.USAGE)


def _open_what_is_closed() -> None:
    """Keep the numbers of stdout and stderr from the next files and connections that are opened.

    Python has None for those that were closed at the start. Of stdout, writing fails as it does
    for any program; what would go to stderr is dropped.
    """
    if sys.stdout is None:
        sys.stdout = _opened(1, os.O_RDONLY)
    if sys.stderr is None:
        sys.stderr = _opened(2, os.O_WRONLY)


def _opened(number: int, flags: int) -> TextIO:
    opened = os.open(os.devnull, flags)
    os.dup2(opened, number)
    if opened != number:
        os.close(opened)
    os.set_inheritable(number, True)
    return open(number, "w", closefd=False)
