"""The command line: what people touch."""

import sys

CTRL_C = 130  # as of a program that SIGINT ended


def main() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        from services.cli.app import main as command_line  # here: loading it can be cut off too

        command_line()
    except KeyboardInterrupt:
        sys.exit(CTRL_C)
