"""One user who floods the CA, as a process of its own: SERVER CREDS KIND SECONDS.

Writes faster than any client library does, to where its creds let it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from services import transport
from services.process import log_to_stderr

SUBJECT = b"ca.dc1.sign.service.junk"
HEADERS = b"NATS/1.0\r\n" + b"".join(b"%05x:\r\n" % number for number in range(120_000)) + b"\r\n"
AT_ONCE = {"garbage": 50, "look-ups": 50, "headers": 1}


def frame(kind: str, inbox: bytes) -> bytes:
    """Return one request, as it goes over the wire."""
    if kind == "headers":
        sizes = (inbox, len(HEADERS), len(HEADERS) + 1)
        return b"HPUB %s %s %d %d\r\n%sx\r\n" % (SUBJECT, *sizes, HEADERS)
    body = b"x" if kind == "garbage" else b'{"request_id":"none"}'
    return b"PUB %s %s %d\r\n%s\r\n" % (SUBJECT, inbox, len(body), body)


async def main(server: str, creds: Path, kind: str, seconds: float) -> None:
    """Send as fast as the server takes it."""
    loop = asyncio.get_running_loop()
    nc = await transport.connect([server], creds=creds, ca=None, name="flood")
    inbox: str = nc.new_inbox()
    frames = frame(kind, inbox.encode()) * AT_ONCE[kind]
    sent = 0
    assert nc._transport is not None
    end = loop.time() + seconds
    while loop.time() < end:
        nc._transport.writelines([frames])
        await nc._transport.drain()  # type: ignore[no-untyped-call]  # nats-py has no type for it
        sent += AT_ONCE[kind]
    print(sent)
    await nc.close()


if __name__ == "__main__":
    log_to_stderr(level="error")
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
