"""What keeps processes running, with real ones."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from services.supervisor import CannotStartError, Program, Supervisor

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def python(program: str, *, name: str = "one", restart: bool = True) -> Program:
    return Program(name=name, argv=(sys.executable, "-c", program), restart=restart)


class Running:
    """A supervisor at work, and what it wrote."""

    def __init__(self, folder: Path, *stages: list[Program]) -> None:
        self.folder = folder
        self.out = io.StringIO()
        self.stop = asyncio.Event()
        self.was_ready = asyncio.Event()
        self._supervisor = Supervisor(stages, pids=folder, out=self.out, colors=False)

    async def run(self, ready: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        async def say() -> None:
            self.was_ready.set()

        await self._supervisor.run(self.stop, ready=ready or say)

    def pid(self, name: str = "one") -> int:
        return int((self.folder / f"{name}.pid").read_text())

    async def says(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.out.getvalue().count(text) < times:
                await asyncio.sleep(0.01)


async def test_what_is_killed_is_started_again(tmp_path: Path) -> None:
    running = Running(tmp_path, [python(SLEEP)])
    task = asyncio.create_task(running.run())
    await running.says("one | up")
    first = running.pid()

    os.kill(first, signal.SIGKILL)
    await running.says("one | up", times=2)

    assert running.pid() != first
    assert "one | was ended by SIGKILL; starting it again in 0.1 s" in running.out.getvalue()
    running.stop.set()
    await task
    assert list(tmp_path.iterdir()) == []


async def test_the_wait_before_the_next_start_grows(tmp_path: Path) -> None:
    running = Running(tmp_path, [python("raise SystemExit(70)")])
    task = asyncio.create_task(running.run())

    await running.says("starting it again in 0.4 s")
    running.stop.set()
    await task

    told = running.out.getvalue()
    assert told.index("in 0.1 s") < told.index("in 0.2 s") < told.index("in 0.4 s")


@pytest.mark.parametrize("code", [1, 2, 4])
async def test_what_says_that_it_cannot_start_ends_all(tmp_path: Path, code: int) -> None:
    running = Running(
        tmp_path,
        [python(SLEEP, name="base")],
        [python(f"raise SystemExit({code})"), python(SLEEP, name="other")],
    )

    with pytest.raises(CannotStartError, match=f"one ended with exit code {code}"):
        await asyncio.wait_for(running.run(), 20)

    assert list(tmp_path.iterdir()) == [], "a process is left"


async def test_a_program_that_is_not_there_cannot_start(tmp_path: Path) -> None:
    running = Running(tmp_path, [Program(name="one", argv=("/nonexistent/program",))])

    with pytest.raises(CannotStartError, match="No such file"):
        await asyncio.wait_for(running.run(), 20)


async def test_what_is_not_to_be_restarted_stays_away(tmp_path: Path) -> None:
    running = Running(tmp_path, [python(SLEEP, restart=False)])
    task = asyncio.create_task(running.run())
    await running.says("one | up")

    os.kill(running.pid(), signal.SIGKILL)

    await running.says("was ended by SIGKILL; it is not to be started again")
    running.stop.set()
    await asyncio.wait_for(task, 20)
    assert running.out.getvalue().count("one | up") == 1


async def test_later_stages_are_stopped_first(tmp_path: Path) -> None:
    polite = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), time.sleep(0.3), sys.exit()))
print('up', flush=True)
time.sleep(600)
"""
    running = Running(tmp_path, [python(polite, name="base")], [python(polite, name="later")])
    task = asyncio.create_task(running.run())
    await running.says("base  | up")
    await running.says("later | up")
    running.stop.set()
    await asyncio.wait_for(task, 20)

    told = running.out.getvalue()
    assert told.index("later | told") < told.index("base  | told")


async def test_a_failure_to_become_ready_ends_all(tmp_path: Path) -> None:
    running = Running(tmp_path, [python(SLEEP)])

    async def never() -> None:
        await running.says("up")
        raise RuntimeError("not ready")

    with pytest.raises(RuntimeError, match="not ready"):
        await asyncio.wait_for(running.run(never), 20)

    assert list(tmp_path.iterdir()) == []


async def test_lines_of_any_length_and_bytes_are_told(tmp_path: Path) -> None:
    program = (
        "import sys; o = sys.stdout.buffer; o.write(b'x' * 300_000 + b'\\n\\xff\\nlast'); o.flush()"
    )
    running = Running(tmp_path, [python(program, restart=False)])
    task = asyncio.create_task(running.run())

    await running.says("one | last")

    assert "one | " + "x" * 300_000 in running.out.getvalue()
    assert "one | \ufffd" in running.out.getvalue()
    running.stop.set()
    await task
