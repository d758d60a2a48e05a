"""Load: many clients on few connections, each asking until it is answered, as our own client does.

Unlike our own client it keeps listening: every answer to a request must be the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Self

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events.base import Struct
from services import error_reply
from services.asking import NoAnswerError, patience
from services.client import ANSWER_SECONDS, CaClient, SigningRequest
from services.clock import SystemEntropy
from services.issued import IssuedCert
from services.refusals import RefusedError
from tests.factories import csr_pem, service_uri
from tests.scenarios.caledger import Datacenter

CONNECTIONS = 4
AGAIN_SECONDS = 0.1  # before who was told that nobody answered asks again


class Request(Struct):
    """What a client asks for, as often as it must."""

    service: str
    request_id: str


class Answer(Struct):
    """A certificate, as its client got it."""

    request: Request
    issued: IssuedCert
    certificate: bytes  # DER of the leaf
    began: float  # of the loop's clock
    seconds: float
    sendings: int


class Failed(Struct):
    """A request that got no certificate."""

    request: Request
    reason: str
    seconds: float


def requests(count: int, *, identities: int, label: str = "r") -> list[Request]:
    """Return requests for `identities` services in turn, each with an id of its own."""
    return [
        Request(service=f"service-{number % identities}", request_id=f"{label}-{number}")
        for number in range(count)
    ]


def endless(to_ask: Sequence[Request]) -> Iterator[Request]:
    """Return these requests for ever, with new ids each time."""
    turn = 0
    while True:
        for request in to_ask:
            yield Request(service=request.service, request_id=f"{request.request_id}-{turn}")
        turn += 1


class Load:
    """Clients that take request after request until there are no more, or `enough` is called."""

    def __init__(
        self,
        lines: Sequence[Line],
        to_ask: Iterable[Request],
        *,
        clients: int,
        deadline: float,
        pause: float,
    ) -> None:
        self._lines = lines
        self._to_ask = iter(to_ask)
        self._clients = clients
        self._deadline = deadline
        self._pause = pause
        self._enough = False
        self._ended = False
        self._seconds = 0.0
        self._asking: set[Request] = set()
        self.answers: list[Answer] = []
        self.failed: list[Failed] = []

    @classmethod
    async def on(
        cls,
        caledger: Datacenter,
        to_ask: Iterable[Request],
        *,
        clients: int,
        deadline: float = ANSWER_SECONDS,
        pause: float = 0.0,
        as_ours: bool = False,
    ) -> Load:
        """Connect; a client waits `pause` seconds between two requests.

        `as_ours`: they ask by `CaClient.sign`, and again where it says that nobody answered.
        """
        domain = json.loads(await (await caledger.client()).roots())["TrustDomain"]
        kind: type[Line] = OurLine if as_ours else ListeningLine
        lines = [
            await kind.open(await caledger.client(), domain)
            for _ in range(min(clients, CONNECTIONS))
        ]
        return cls(lines, to_ask, clients=clients, deadline=deadline, pause=pause)

    def enough(self) -> None:
        """Let the clients end with the requests that they are at."""
        self._enough = True

    async def run(self) -> None:
        """Ask everything."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as clients:
            for number in range(self._clients):
                clients.create_task(self._client(self._lines[number % len(self._lines)]))
        self._ended = True
        self._seconds = asyncio.get_running_loop().time() - began

    async def answered(self, count: int) -> None:
        """Wait until `count` more requests than now are answered, or the clients have ended."""
        goal = len(self.answers) + count
        while len(self.answers) < goal and not self._ended:
            await asyncio.sleep(0.01)
        assert len(self.answers) >= goal, "the load has ended too early"

    async def settled(self) -> None:
        """Wait until everything that is asked now is answered, or has failed."""
        waiting = set(self._asking)
        while waiting & self._asking:
            await asyncio.sleep(0.01)

    @property
    def contradictions(self) -> list[Request]:
        """Requests to which two different answers came."""
        return [request for line in self._lines for request in line.contradictions]

    @property
    def longest(self) -> float:
        """How long the slowest request took, in seconds."""
        return max(answer.seconds for answer in self.answers)

    def all_answered(self) -> None:
        """Assert that every request got one certificate within its deadline."""
        assert not self.failed, f"{len(self.failed)} requests failed: {self.failed[:5]}"
        assert not self.contradictions
        assert self.longest <= self._deadline

    def figures(self) -> str:
        """Return what the load was, in a line; once it has ended."""
        took = sorted(answer.seconds for answer in self.answers)
        if not took:
            return f"none of {len(self.failed)} requests answered"
        again = sum(answer.sendings - 1 for answer in self.answers)
        middle, most = (took[len(took) * part // 100] * 1000 for part in (50, 99))
        return (
            f"{len(took)} requests answered, {len(self.failed)} not, by {self._clients} clients in "
            f"{self._seconds:.1f} s ({len(took) / self._seconds:.0f}/s); p50 {middle:.0f} ms, p99 "
            f"{most:.0f} ms, longest wait {took[-1]:.2f} s; {again} sent again"
        )

    async def _client(self, line: Line) -> None:
        for request in self._to_ask:
            self._asking.add(request)
            told = await line.ask(request, self._deadline)
            self._asking.discard(request)
            if isinstance(told, Answer):
                self.answers.append(told)
            else:
                self.failed.append(told)
            if self._enough:
                return
            if self._pause:
                await asyncio.sleep(self._pause)


@cache
def _csr(service: str, trust_domain: str) -> str:
    """Return a service's CSR as PEM: always the same, or it could not be asked for again."""
    return csr_pem(uri=service_uri(service, trust_domain=trust_domain)).decode()


class _Waiting:
    """A request that was sent: its first answer, and whether all others are the same."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.sha256 = b""


class Line(ABC):
    """One connection."""

    def __init__(self) -> None:
        self.contradictions: list[Request] = []

    @classmethod
    @abstractmethod
    async def open(cls, client: CaClient, trust_domain: str) -> Self:
        """Return a line of this client."""

    @abstractmethod
    async def ask(self, request: Request, deadline: float) -> Answer | Failed:
        """Ask until there is an answer, or for `deadline` seconds."""


class OurLine(Line):
    """Our own client, and who uses it: told that nobody answered, asks again under the id."""

    def __init__(self, client: CaClient, trust_domain: str) -> None:
        super().__init__()
        self._client = client
        self._trust_domain = trust_domain

    @classmethod
    async def open(cls, client: CaClient, trust_domain: str) -> Self:
        return cls(client, trust_domain)

    async def ask(self, request: Request, deadline: float) -> Answer | Failed:
        loop = asyncio.get_running_loop()
        csr = _csr(request.service, self._trust_domain)
        began, reason = loop.time(), "no answer"
        for calls in itertools.count(1):
            try:
                told = await self._client.sign(request.service, csr, request_id=request.request_id)
            except NoAnswerError as error:
                reason = str(error)
            except RefusedError as refused:
                reason = f"{refused.code}: {refused}"
                if refused.code != "not_ready":
                    break
            else:
                return _answer(request, told, began=began, sendings=calls)
            if loop.time() - began > deadline:
                break
            await asyncio.sleep(AGAIN_SECONDS)
        return Failed(request=request, reason=reason, seconds=loop.time() - began)


class ListeningLine(Line):
    """One connection, and the answers to everything that was asked on it."""

    def __init__(self, client: CaClient, trust_domain: str) -> None:
        super().__init__()
        self._nc = client.nc
        self._subjects = client.subjects
        self._trust_domain = trust_domain
        self._inbox = client.nc.new_inbox()
        self._asked: list[_Waiting] = []
        self._entropy = SystemEntropy()

    @classmethod
    async def open(cls, client: CaClient, trust_domain: str) -> Self:
        line = cls(client, trust_domain)
        await client.nc.subscribe(f"{line._inbox}.*", cb=line._heard)
        await client.nc.flush()
        return line

    async def ask(self, request: Request, deadline: float) -> Answer | Failed:
        """Send the same bytes again after each silence; a lost connection is silence too."""
        loop = asyncio.get_running_loop()
        csr = _csr(request.service, self._trust_domain)
        body = msgspec.json.encode(SigningRequest(request_id=request.request_id, csr=csr))
        subject = self._subjects.sign("service", request.service)
        waiting = _Waiting(request)
        reply = f"{self._inbox}.{len(self._asked)}"
        self._asked.append(waiting)
        began, sendings = loop.time(), 0
        while not waiting.first.done():
            left = began + deadline - loop.time()
            if left <= 0:
                return Failed(request=request, reason="no answer", seconds=loop.time() - began)
            try:
                await self._nc.publish(subject, body, reply=reply)
                sendings += 1
            except NatsError:
                assert not self._nc.is_closed
            wait = patience(sendings or 1, self._entropy.fraction())
            await asyncio.wait({waiting.first}, timeout=min(wait, left))
        seconds = loop.time() - began
        told = waiting.first.result()
        waiting.first = loop.create_future()  # what it held is large, and is kept no longer
        if (error := _error(told)) is not None:
            return Failed(request=request, reason=error, seconds=seconds)
        return _answer(request, told, began=began, sendings=sendings)

    async def _heard(self, message: Msg) -> None:
        if (message.headers or {}).get("Status") == "503":
            return  # nobody listens just now
        if (error := _error(message.data)) is not None and error.startswith("not_ready"):
            return
        waiting = self._asked[int(message.subject.rpartition(".")[2])]
        sha256 = hashlib.sha256(message.data).digest()
        if not waiting.sha256:
            waiting.sha256 = sha256
            waiting.first.set_result(message.data)
        elif waiting.sha256 != sha256:
            self.contradictions.append(waiting.request)


def _answer(request: Request, told: bytes, *, began: float, sendings: int) -> Answer:
    issued = msgspec.json.decode(told, type=IssuedCert)
    return Answer(
        request=request,
        issued=issued,
        certificate=_leaf_der(issued),
        began=began,
        seconds=asyncio.get_running_loop().time() - began,
        sendings=sendings,
    )


def _error(data: bytes) -> str | None:
    error = error_reply.decode(data)
    return None if error is None else f"{error.code}: {error.message}"


def _leaf_der(issued: IssuedCert) -> bytes:
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(issued.cert_pem.partition(end)[0] + end)
