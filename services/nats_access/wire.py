"""What a server sends, read without ever failing: messages hold what any client wrote.

nats-py's own reading ends in silence on a header that is not UTF-8, takes a vertical tab in a
subject for the end of it, and strips names of headers, so that ` Nats-Request-Info` counts.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

REQUEST_INFO: Final = "Nats-Request-Info"
HEADERS_MAX: Final = 4_096  # bytes that are read, from the end of a block
CONTROL_LINE_MAX: Final = 1024 * 1024  # an INFO may name many servers

_LINE_END: Final = b"\r\n"
_BLOCK_END: Final = b"\r\n\r\n"
_INFO_LINE: Final = f"{REQUEST_INFO}: ".encode()
_STATUS: Final = re.compile(rb"NATS/1\.0 +([0-9]{3})(?: +([^\r\n]*))?\r\n")
# A name and its value. What only the server may say, it does not say in such a line.
_HEADER: Final = re.compile(
    r"\r\n(?!(?:(?i:Nats-Request-Info)|Status|Description):)([!-9;-~]+):[ \t]*([^\r\n]*)"
)


def read_headers(block: bytes) -> dict[str, str] | None:
    """Read a header block; None where nothing is left of it. Never raises.

    A name counts only as it is written, without any blank; of one that comes twice the last counts,
    since a server adds its own behind a client's. `Status` and `Description` come from the first
    line only, as in nats-py.

    `Nats-Request-Info` comes from the last line only: a server writes it there, over the last two
    bytes of what the client wrote (nats-server, `setHeader`), without looking at them. Where those
    did not end a line, the server's is no line of its own, and it is not told who asked.

    Of a block that is longer than HEADERS_MAX only its last lines are read: what a server adds it
    adds there, and nothing of ours is so long. A client's 900 kB would take 30 ms and 11 MB.
    """
    info = _request_info(block)
    rest = block if info is None else block[: -len(info)]
    if len(rest) > HEADERS_MAX:
        rest = rest[rest.find(_LINE_END, len(rest) - HEADERS_MAX) :]
    found: dict[str, str] = dict(_HEADER.findall(rest.decode("utf-8", "replace")))
    if info is not None:
        value = info[len(_INFO_LINE) : -len(_BLOCK_END)]
        found[REQUEST_INFO] = value.decode("utf-8", "replace")
    if (status := _STATUS.match(block)) is not None:
        found["Status"] = status[1].decode()
        if status[2]:
            found["Description"] = status[2].decode("utf-8", "replace")
    return found or None


def _request_info(block: bytes) -> bytes | None:
    """Return the last line with its end, where the server wrote it, and nobody else a part of it.

    Never so where it holds its own name twice: the first may be a client's. (A client whose
    connection has that name is not told apart, which is its own affair.)
    """
    if not block.endswith(_BLOCK_END):
        return None
    before = block.rfind(_LINE_END, 0, -len(_BLOCK_END))
    if before < 0:
        return None
    line = block[before + len(_LINE_END) :]
    if not line.startswith(_INFO_LINE) or line.find(_INFO_LINE, 1) >= 0:
        return None
    return line


class WireParser(Parser):
    """Takes what a server sends apart, in nats-py's place, for its client.

    The server separates by one space, which no subject holds; every other byte is a subject's.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._client = client

    def reset(self) -> None:
        """Forget what came in part: a new connection begins."""
        self._buffer = bytearray()
        self._awaited: tuple[bytes, int, bytes, int, int] | None = None

    async def parse(self, data: bytes = b"") -> None:
        """Take what came, and tell of all that is complete; raises ProtocolError."""
        self._buffer += data
        buffer = self._buffer
        while buffer is self._buffer:  # else a new connection has begun
            if self._awaited is None:
                end = buffer.find(_LINE_END)
                if end < 0:
                    if len(buffer) > CONTROL_LINE_MAX:
                        raise ProtocolError
                    return
                line = bytes(buffer[:end])
                del buffer[: end + len(_LINE_END)]
                if line.startswith((b"MSG ", b"HMSG ")):
                    self._awaited = _announced(line)
                else:
                    await self._control(line)
            else:
                subject, sid, reply, head, size = self._awaited
                if len(buffer) < size + len(_LINE_END):
                    return
                headers = bytes(buffer[:head])
                payload = bytes(buffer[head:size])
                del buffer[: size + len(_LINE_END)]
                self._awaited = None
                await self._client._process_msg(sid, subject, reply, payload, headers)  # noqa: SLF001

    async def _control(self, line: bytes) -> None:
        client = self._client
        operation, _, rest = line.partition(b" ")
        match operation.rstrip():
            case b"PING":
                await client._process_ping()  # noqa: SLF001 - nats-py's parser does so
            case b"PONG":
                await client._process_pong()  # noqa: SLF001
            case b"-ERR":
                await client._process_err(rest.decode("utf-8", "replace").strip().lower())  # noqa: SLF001
            case b"INFO":
                await client._process_info(_decoded(rest))  # noqa: SLF001
            case b"+OK":
                pass
            case _:
                raise ProtocolError


def _announced(line: bytes) -> tuple[bytes, int, bytes, int, int]:
    """Read `MSG subject sid [reply] size`, or `HMSG` with the headers' size before the whole."""
    operation, *parts = line.split(b" ")
    try:
        size = int(parts.pop())
        head = int(parts.pop()) if operation == b"HMSG" else 0
        subject, sid, *reply = parts
        if len(reply) > 1 or not 0 <= head <= size:
            raise ProtocolError
        return subject, int(sid), reply[0] if reply else b"", head, size
    except (ValueError, IndexError) as error:
        raise ProtocolError from error


def _decoded(info: bytes) -> dict[str, Any]:
    try:
        told = json.loads(info)
    except (ValueError, RecursionError) as error:
        raise ProtocolError from error
    if not isinstance(told, dict):
        raise ProtocolError
    return told
