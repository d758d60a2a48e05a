"""The command line as such."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("nats", "cryptography", "asyncio", "rich", "aiosqlite", "msgspec", "structlog")


def test_starting_loads_nothing_heavy() -> None:
    """`caledger --help` is fast: what a command needs is loaded when it runs."""
    program = f"import sys, services.cli; print([m for m in {HEAVY!r} if m in sys.modules])"

    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert told.stdout.strip() == "[]"


def test_every_command_explains_itself() -> None:
    from typer.main import get_command
    from typer.testing import CliRunner

    from services.cli.app import app

    def commands(command: object, *path: str) -> list[tuple[str, ...]]:
        inner = getattr(command, "commands", {})
        return [path, *(c for name, one in inner.items() for c in commands(one, *path, name))]

    paths = commands(get_command(app))
    assert len(paths) > 15
    for path in paths:
        ran = CliRunner().invoke(app, [*path, "--help"])
        assert ran.exit_code == 0, path
        assert "Usage" in ran.stdout, path
