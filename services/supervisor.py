"""What keeps the processes of `caledger dev` running; systemd or Kubernetes do it in production."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from events.base import Struct
from services.nats_access.files import write_atomically
from services.nats_access.server_process import die_with
from services.process import Ended

T = TypeVar("T")

BACK_OFF_FIRST_SECONDS: Final = 0.1
BACK_OFF_MAX_SECONDS: Final = 5.0
SETTLED_SECONDS: Final = 10.0  # a process that lived so long did start
FINAL_FAILURES_MAX: Final = 5  # in a row, of one that had settled before
STOP_SECONDS: Final = 10.0  # between SIGTERM and SIGKILL
FINAL: Final = {Ended.REFUSED, Ended.USAGE, Ended.NOT_PERMITTED}

_COLORS: Final = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


class CannotStartError(Exception):
    """A process that cannot start at all: trying again does not help."""


class Program(Struct):
    """A process to keep running."""

    name: str  # also of its pid file
    argv: tuple[str, ...]
    restart: bool = True
    retell: Callable[[str], str | None] = str  # a line of its log, as it is shown; None: not at all


class Supervisor:
    """Starts programs, starts again with back-off what died, prefixes what they say."""

    def __init__(
        self, stages: Sequence[Sequence[Program]], *, pids: Path, out: TextIO, colors: bool
    ) -> None:
        """`stages`: what later ones need stands in earlier ones, and is stopped after them."""
        programs = [program for stage in stages for program in stage]
        self._stages = stages
        self._pids = pids
        self._out = out
        self._width = max(len(program.name) for program in programs)
        self._colors = {
            program.name: _COLORS[i % len(_COLORS)] if colors else ""
            for i, program in enumerate(programs)
        }

    async def run(
        self, stop: asyncio.Event, *, ready: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Keep all programs running until `stop`.

        `ready` is awaited once while they run. Raises CannotStartError, with nothing left running.
        """
        try:
            await self._run(self._stages, stop, ready)
        except ExceptionGroup as group:
            raise _first(group) from group

    async def _run(
        self,
        stages: Sequence[Sequence[Program]],
        stop: asyncio.Event,
        ready: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        here, *later = stages
        last = asyncio.Event() if later else stop  # set when all later ones have ended
        async with asyncio.TaskGroup() as group:
            for program in here:
                group.create_task(self._keep(program, last))
            if not later:
                group.create_task(until(stop, ready()))
                return
            try:
                await self._run(later, stop, ready)
            finally:
                last.set()

    async def _keep(self, program: Program, stop: asyncio.Event) -> None:
        """Run a program again and again until `stop`, or until this is cancelled."""
        wait, final, settled = BACK_OFF_FIRST_SECONDS, 0, False
        while not stop.is_set():
            code, lived = await self._once(program, stop)
            if stop.is_set():
                return
            if not program.restart:
                self.say(program.name, f"{_how(code)}; it is not to be started again")
                await stop.wait()
                return
            if lived >= SETTLED_SECONDS:
                wait, final, settled = BACK_OFF_FIRST_SECONDS, 0, True
            if code in FINAL:
                final += 1
                if not settled or final >= FINAL_FAILURES_MAX:
                    raise CannotStartError(f"{program.name} {_how(code)}: it cannot start")
            self.say(program.name, f"{_how(code)}; starting it again in {wait:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait)
            wait = min(wait * 2, BACK_OFF_MAX_SECONDS)

    async def _once(self, program: Program, stop: asyncio.Event) -> tuple[int, float]:
        """Run a program to its end; return its exit code and how many seconds it lived."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                stdin=asyncio.subprocess.PIPE,  # held open: its end tells a worker that we are gone
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, who stop them in order
                preexec_fn=die_with(os.getpid()),
            )
        except OSError as error:
            raise CannotStartError(f"{program.name}: {error}") from error
        pid_file = self._pids / f"{program.name}.pid"
        write_atomically(pid_file, f"{process.pid}\n".encode())
        pump = asyncio.create_task(self._pump(program, process))
        ended = asyncio.create_task(process.wait())
        told = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            code = await asyncio.shield(_end(process))
            await pump
            pid_file.unlink(missing_ok=True)
        return code, loop.time() - began

    async def _pump(self, program: Program, process: asyncio.subprocess.Process) -> None:
        """Copy what a process says, a line at a time, until it ends."""
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                told = program.retell(line.decode(errors="replace"))
                if told is not None:
                    self.say(program.name, told)
        if rest:
            self.say(program.name, rest.decode(errors="replace"))

    def say(self, name: str, line: str) -> None:
        """Write one line under a program's name."""
        prefix = f"{name:<{self._width}} |"
        if color := self._colors.get(name):
            prefix = f"\x1b[{color}m{prefix}\x1b[0m"
        print(prefix, line, file=self._out, flush=True)


async def _end(process: asyncio.subprocess.Process) -> int:
    """Return how a process ended; one that runs gets SIGTERM, and SIGKILL if that is not enough."""
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            return await process.wait()
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        return await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not `process.send_signal`: that would take the exit status of one that has just ended.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns; None, and `work` cancelled, where `stop` comes first."""
    task = asyncio.create_task(work)
    told = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        told.cancel()
        task.cancel()
    await asyncio.wait({task})  # it has things to end, too
    return None


def _first(error: Exception) -> Exception:
    """Return the first of grouped errors, one that says what cannot start before any other."""
    if not isinstance(error, ExceptionGroup):
        return error
    inner = [_first(one) for one in error.exceptions]
    return next((one for one in inner if isinstance(one, CannotStartError)), inner[0])


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
