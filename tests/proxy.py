"""A connection to nats-server that loses what a test tells it to lose, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Frame:
    """One operation of the NATS protocol: its line, and its payload with headers."""

    line: bytes
    payload: bytes = b""

    @property
    def words(self) -> list[str]:
        return self.line.decode().split()

    @property
    def bytes(self) -> bytes:
        return self.line + (self.payload + b"\r\n" if self.words[0] in _WITH_PAYLOAD else b"")

    @property
    def subject(self) -> str:
        return self.words[1] if self.words[0] in _WITH_PAYLOAD else ""

    @property
    def reply(self) -> str:
        """The reply subject of a publish with headers."""
        return self.words[2] if self.words[0] == "HPUB" and len(self.words) == 5 else ""


_WITH_PAYLOAD = frozenset({"PUB", "HPUB", "MSG", "HMSG"})

Matching = Callable[[Frame], bool]


class Proxy:
    """Stands between clients and one server. `lost` is set whenever something was lost."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent: list[Frame] = []  # what clients published
        self.lost = asyncio.Event()
        self._lose_sent: list[Matching] = []
        self._lose_answers: list[Matching] = []
        self._lose_heard: list[Matching] = []
        self._replies: set[str] = set()
        self.url = ""

    def lose_request(self, matching: Matching, *, times: int = 1) -> None:
        """Lose publishes on their way to the server."""
        self._lose_sent += [matching] * times

    def lose_answer(self, matching: Matching, *, times: int = 1) -> None:
        """Lose what the server answers to publishes that match."""
        self._lose_answers += [matching] * times

    def lose_heard(self, matching: Matching, *, times: int = 1) -> None:
        """Lose messages on their way to the client."""
        self._lose_heard += [matching] * times

    def cut(self) -> None:
        """End all connections; clients may connect again."""
        for writer in self._connections:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._tasks)
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, up_writer}
        await asyncio.gather(
            self._carry(reader, up_writer, self._passes_up),
            self._carry(up_reader, writer, self._passes_down),
        )
        self._connections -= {writer, up_writer}

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Matching
    ) -> None:
        try:
            while line := await reader.readline():
                frame = Frame(line)
                if frame.words and frame.words[0] in _WITH_PAYLOAD:
                    payload = await reader.readexactly(int(frame.words[-1]) + 2)
                    frame = Frame(line, payload[:-2])
                if passes(frame):
                    writer.write(frame.bytes if frame.words else line)
                else:
                    self.lost.set()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    def _passes_up(self, frame: Frame) -> bool:
        if not frame.subject:
            return True
        self.sent.append(frame)
        if _take(self._lose_sent, frame):
            return False
        if _take(self._lose_answers, frame):
            self._replies.add(frame.reply)
        return True

    def _passes_down(self, frame: Frame) -> bool:
        if frame.subject and frame.subject in self._replies:
            self._replies.remove(frame.subject)
            return False
        return not (frame.subject and _take(self._lose_heard, frame))


def _take(losses: list[Matching], frame: Frame) -> bool:
    for index, matching in enumerate(losses):
        if matching(frame):
            del losses[index]
            return True
    return False
