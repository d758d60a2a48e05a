"""Asks for certificates as fast as they come, as a process of its own that takes little CPU itself.

A small NATS client: nats-py takes longer to ask than a signer may take to answer.
`python -m tests.benchmarks.load` reads a `Load` from stdin and prints `Asked` on stdout.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import cast

import msgspec
from nkeys import from_seed

from events.subjects import Subjects
from services.asking import patience
from services.clock import SystemEntropy
from tests.factories import csr_pem, service_uri

MESSAGE = re.compile(rb"H?MSG (\S+) \S+ (?:(\d+) )?(\d+)\r\n")
SEQUENCE = re.compile(rb'"LedgerSequence":(\d+)')


class Load(msgspec.Struct):
    """What to ask, and how."""

    host: str
    port: int
    creds: str
    user: str
    datacenter: str
    trust_domain: str
    name: str  # makes request ids of several processes differ
    clients: int  # requests in flight
    identities: int
    seconds: float
    warm_up_seconds: float


class Asked(msgspec.Struct):
    """What came of it, after the warm-up."""

    seconds: float
    issued: int
    failed: list[str]
    asked_again: int
    latencies: list[float]  # seconds
    sequences: list[int]  # of the entries that hold the certificates
    cpu_seconds: float


class Flight:
    """A request that waits for its answer."""

    __slots__ = ("again", "began", "frame", "sendings")

    def __init__(self, frame: bytes, now: float) -> None:
        self.frame = frame
        self.began = now
        self.sendings = 1
        self.again = now + patience(1, 0.5)


class Connection(asyncio.Protocol):
    """One connection with all clients' requests on it."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.inbox = f"_INBOX.{load.user}.{load.name}"
        self.frames = self._frames()
        self.flights: dict[bytes, Flight] = {}
        self.buffer = b""
        self.ready = asyncio.get_running_loop().create_future()
        self.measuring = False
        self.done = False
        self.asked = Asked(0, 0, [], 0, [], [], 0.0)
        self.entropy = SystemEntropy()
        self._sequences: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.ready.done():
            if self.buffer.startswith(b"INFO ") and b"\r\n" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\r\n")
                self._log_in(json.loads(line[5:]))
            return
        position = 0
        out: list[bytes] = []
        while match := MESSAGE.match(self.buffer, position):
            end = match.end() + int(match[3])
            if len(self.buffer) < end + 2:
                break
            payload = self.buffer[match.end() + int(match[2] or 0) : end]
            position = end + 2
            self._answered(match[1], payload, out)
        else:
            if self.buffer.startswith(b"PING\r\n", position):
                out.append(b"PONG\r\n")
                position += 6
            elif self.buffer.startswith(b"-ERR", position):
                raise AssertionError(self.buffer[position : position + 200])
        self.buffer = self.buffer[position:]
        if out:
            self.transport.write(b"".join(out))

    def begin(self) -> None:
        """Send the first request of each client."""
        now = time.perf_counter()
        self.transport.write(b"".join(self._next(now) for _ in range(self.load.clients)))

    def ask_again(self) -> None:
        """Send once more what nobody has answered, as our client does."""
        now = time.perf_counter()
        for flight in self.flights.values():
            if now > flight.again:
                flight.sendings += 1
                flight.again = now + patience(flight.sendings, self.entropy.fraction())
                self.asked.asked_again += 1
                self.transport.write(flight.frame)

    def _answered(self, subject: bytes, payload: bytes, out: list[bytes]) -> None:
        flight = self.flights.pop(subject, None)
        if flight is None:
            return  # the second answer to one that was asked again
        now = time.perf_counter()
        sequence = SEQUENCE.search(payload)
        if not payload:  # no responders: nobody holds the partition just now
            self.flights[subject] = flight
            return
        if self.measuring:
            if sequence is None:
                self.asked.failed.append(payload.decode())
            else:
                self.asked.issued += 1
                self.asked.latencies.append(now - flight.began)
                self._sequences.add(int(sequence[1]))
        if not self.done:
            out.append(self._next(now))

    def _next(self, now: float) -> bytes:
        reply, frame = next(self.frames)
        self.flights[reply] = Flight(frame, now)
        return frame

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        subjects = Subjects(self.load.datacenter)
        prepared = []
        for number in range(self.load.identities):
            name = f"service-{number}"
            uri = service_uri(name, trust_domain=self.load.trust_domain, dc=self.load.datacenter)
            body = json.dumps({"csr": csr_pem(uri=uri).decode(), "request_id": ""}).encode()
            prepared.append((subjects.sign("service", name).encode(), body[:-2]))
        inbox = self.inbox.encode()
        for number, (subject, body) in enumerate(cycle(prepared)):
            token = b"%s-%d" % (self.load.name.encode(), number)
            reply = b"%s.%d" % (inbox, number)
            size = len(body) + len(token) + 2
            yield reply, b'PUB %s %s %d\r\n%s%s"}\r\n' % (subject, reply, size, body, token)

    def _log_in(self, info: dict[str, str]) -> None:
        text = Path(self.load.creds).read_text()
        jwt, seed = re.findall(r"-----BEGIN [^-]+-----\s+(\S+)\s+------?END", text)
        signed = from_seed(seed.encode()).sign(  # type: ignore[no-untyped-call]  # nkeys has no types
            info["nonce"].encode()
        )
        options = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "protocol": 1,
            "lang": "load",
            "version": "1",
            "jwt": jwt,
            "sig": base64.urlsafe_b64encode(signed).rstrip(b"=").decode(),
        }
        self.transport.write(
            b"CONNECT %s\r\nSUB %s.* 1\r\n" % (json.dumps(options).encode(), self.inbox.encode())
        )
        self.ready.set_result(None)

    def result(self, seconds: float) -> Asked:
        """Return what came of it."""
        self.asked.seconds = seconds
        self.asked.sequences = sorted(self._sequences)
        return self.asked


async def main() -> None:
    """Ask until the time is over."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(load), load.host, load.port)
    next(connection.frames)  # makes all signing requests before the clock starts
    await connection.ready
    connection.begin()
    await _keep_asking(connection, load.warm_up_seconds)
    print("measuring", flush=True)
    connection.measuring = True
    began, cpu = time.perf_counter(), time.process_time()
    await _keep_asking(connection, load.seconds)
    connection.measuring = False
    connection.done = True
    result = connection.result(time.perf_counter() - began)
    result.cpu_seconds = time.process_time() - cpu
    print("measured", flush=True)
    connection.transport.close()
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


async def _keep_asking(connection: Connection, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await asyncio.sleep(0.05)
        connection.ask_again()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
