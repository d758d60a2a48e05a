"""The command line: what people touch."""

from services.cli.app import main

__all__ = ["main"]
