"""The command line as such."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.keys.kek import KeyEncryptionKey
from services.nats_access.provision import provision
from tests.unit.services.cli.test_common import node

HEAVY = ("nats", "cryptography", "asyncio", "rich", "aiosqlite", "msgspec", "structlog")


def test_starting_loads_nothing_heavy() -> None:
    """`caledger --help` is fast: what a command needs is loaded when it runs."""
    program = f"import sys, services.cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"

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


CALEDGER = (sys.executable, "-m", "services.cli")


@pytest.mark.parametrize("arguments", [["--help"], ["user", "add", "--help"], ["user", "list"]])
def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path, arguments: list[str]) -> None:
    """Whatever writes: click, rich's help, or a table."""
    provision(node(tmp_path), "east", KeyEncryptionKey(bytes(32)))
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as pipe:
        ran = subprocess.run(
            [*CALEDGER, *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env={**os.environ, "CALEDGER_DATA": str(tmp_path)},
            check=False,
        )

    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", ["--help", "schema", "user list", "user list --json"])
def test_output_that_is_closed_is_told_in_a_line(tmp_path: Path, arguments: str) -> None:
    provision(node(tmp_path), "east", KeyEncryptionKey(bytes(32)))
    ran = subprocess.run(
        ["sh", "-c", f"{' '.join(CALEDGER)} {arguments} >&-"],
        capture_output=True,
        text=True,
        env={**os.environ, "CALEDGER_DATA": str(tmp_path)},
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (2, "caledger: cannot write: Bad file descriptor\n")


def test_what_goes_to_a_closed_stderr_does_not_go_to_stdout(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["sh", "-c", f"{' '.join(CALEDGER)} roots get --data {tmp_path} 2>&-"],
        stdout=subprocess.PIPE,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (2, b"")


def test_ctrl_c_while_the_command_line_is_loaded_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # so that it does not end by itself
        port = silent.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "services.cli", "roots", "get"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NATS_URL": f"nats://127.0.0.1:{port}"},
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "typer" in line:
                    break
            process.send_signal(signal.SIGINT)
            told = process.stderr.read()

    assert process.returncode == 130
    assert "Traceback" not in told
