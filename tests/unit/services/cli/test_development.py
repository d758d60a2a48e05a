"""`caledger dev`: a server that was left behind is ended, and no other process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from services.cli.development import stages, stop_left_over
from services.node_file import NodeOptions, settle
from services.setup_node import server_conf


@contextmanager
def running(data: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these arguments, whose id is the one that a server of the folder once had."""
    process = subprocess.Popen([sys.executable, "-c", "input()", *arguments], stdin=subprocess.PIPE)
    (data / "run").mkdir(parents=True, exist_ok=True)
    (data / "run" / "nats-server.pid").write_text(str(process.pid))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[bytes]) -> bool:
    return process.wait(timeout=10) == -signal.SIGTERM


def test_a_server_that_was_left_behind_is_ended_from_wherever_it_is_looked_for(
    tmp_path: Path,
) -> None:
    data = tmp_path / "dä ta"
    options = NodeOptions(data=data)
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    with chdir(tmp_path):
        ((server,), *_) = stages(settle(options), Path("link"), signers=1, colors=False)
        with running(data, *server.argv[1:]) as process:
            stop_left_over(Path("dä ta"))

            assert ended(process)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", server_conf(Path("data"))),
        ("--config", Path("/elsewhere") / server_conf(Path("data"))),
        ("--config", "CONF.old"),
        ("--config", "CONF", "--signal", "stop"),
        ("CONF",),
    ],
)
def test_another_process_that_has_its_id_now_is_left_alone(
    tmp_path: Path, arguments: tuple[str | Path, ...]
) -> None:
    conf = str(server_conf((tmp_path / "data").resolve()))
    with chdir(tmp_path):
        data = Path("data")
        with running(data, *(str(each).replace("CONF", conf) for each in arguments)) as process:
            stop_left_over(data)

            assert process.poll() is None
            process.communicate(b"\n", timeout=10)
            assert process.returncode == 0
