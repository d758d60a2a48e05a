"""One worker as one process: logs, signals, and an exit code that a supervisor understands."""

from __future__ import annotations

import asyncio
import enum
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import structlog
from msgspec.structs import replace

LogFormat = Literal["plain", "color", "json"]

WORKERS: Final[Mapping[str, str]] = {
    "leader-elector": "services.leader_elector.worker",
    "root-manager": "services.root_manager.worker",
    "signer": "services.signer.worker",
    "replicator": "services.replicator.worker",
}


class Ended(enum.IntEnum):
    """How a worker's process ends; the first three as every command of ours does."""

    STOPPED = 0  # as it was told to
    REFUSED = 1  # what it found must not be worked on: starting it again does not help
    USAGE = 2  # nor here: its configuration cannot be used
    AWAY = 3  # the world failed (NATS, the disk): start it again
    NOT_PERMITTED = 4  # starting it again does not help
    BUG = 70  # sysexits.h's EX_SOFTWARE: its state comes from the ledger, start it again


def log_to_stderr(*, level: str = "info", style: LogFormat = "plain") -> None:
    """Send all logs to stderr: a line each, for people or as JSON."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=style == "color",
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,  # others show locals: secrets
        )
    )
    structured = [structlog.processors.format_exc_info] if style == "json" else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if style == "json" else "%H:%M:%S"),
            *structured,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def run_worker(
    worker: str,
    config_file: Path,
    *,
    slot: int = 0,
    style: LogFormat = "plain",
    with_parent: bool = False,
    metrics_port: int | None = None,
) -> Ended:
    """Run one worker until SIGTERM or SIGINT; `with_parent`: also until stdin ends.

    `metrics_port`: the node's base port, where it is not the configuration's.
    """
    from services.startup import StoppedError

    log_to_stderr(style=style)
    log = structlog.get_logger()
    if sys.flags.optimize:
        log.error("caledger does not run under python -O: its assertions are part of it")
        return Ended.USAGE
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(worker, config_file, slot, style, with_parent, metrics_port))
    except StoppedError:
        return Ended.STOPPED
    except Exception as error:  # the one place of the process that takes all; see `judge`
        ended, message = judge(error)
        if ended is Ended.BUG:
            log.exception("cannot go on", error=message)
        else:
            log.error("cannot go on", error=message)  # noqa: TRY400 - it is told once, in one line
        return ended
    return Ended.STOPPED


async def _run(
    worker: str,
    config_file: Path,
    slot: int,
    style: LogFormat,
    with_parent: bool,
    metrics_port: int | None,
) -> None:
    from services import config

    loaded = config.load(config_file)
    if metrics_port is not None:
        loaded = replace(loaded, metrics=replace(loaded.metrics, base_port=metrics_port))
    if style == "json":  # else it stands in front of each line, or the terminal is its own
        structlog.contextvars.bind_contextvars(worker=worker, slot=slot)
    stop = asyncio.Event()
    _stop_on_signals(stop)
    if with_parent:
        _stop_when_stdin_ends(stop)
    await importlib.import_module(WORKERS[worker]).run(loaded, stop=stop, slot=slot)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def asked() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # who asks twice does not want to wait

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)


def _stop_when_stdin_ends(stop: asyncio.Event) -> None:
    """Follow the supervisor even where it was killed: its end of the pipe closes with it."""
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(stdin, 1024):
            loop.remove_reader(stdin)
            stop.set()

    stdin = sys.stdin.fileno()
    loop.add_reader(stdin, readable)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this Python
        return None
    return uvloop.new_event_loop


def judge(error: BaseException) -> tuple[Ended, str]:
    """Say how a worker that raised this has ended, and what to tell; a stranger is a bug."""
    judged = [(_kind(cause), _text(cause)) for cause in _causes(error)]
    bugs = [one for one in judged if one[0] is Ended.BUG]
    final = [one for one in judged if one[0] is not Ended.AWAY]
    return (bugs or final or judged)[0]


def _text(error: BaseException) -> str:
    """Return what an error says, and where: a fold notes at which sequence it stopped."""
    return ", ".join((str(error) or type(error).__name__, *getattr(error, "__notes__", ())))


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[Any] = error
        for inner in group.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _kind(error: BaseException) -> Ended:
    from nats.errors import Error as NatsError

    from events.catalogue import UnknownEventTypeError
    from events.log import GapError, LedgerError
    from projections.disk import ProjectionFileError
    from services import config, streams, transport
    from services.keys.interface import KeyStoreError
    from services.leases import LeaseLostError

    match error:
        case config.ConfigError() | transport.SetupError():
            return Ended.USAGE
        case transport.NotPermittedError():
            return Ended.NOT_PERMITTED
        case streams.SetupError() if isinstance(error.__cause__, LedgerError):
            return Ended.AWAY  # nobody could say how the streams are
        case streams.SetupError() | UnknownEventTypeError() | GapError() | KeyStoreError():
            return Ended.REFUSED
        case ProjectionFileError():
            return Ended.REFUSED
        case LedgerError() | NatsError() | transport.TransportError() | OSError() | TimeoutError():
            return Ended.AWAY
        case LeaseLostError():
            return Ended.AWAY  # it stood still, or NATS did: the next run takes one of its own
        case _:
            return Ended.BUG
