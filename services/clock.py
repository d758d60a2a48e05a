"""The edge of every decision: time and randomness, which come in as arguments everywhere else."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Protocol

from ulid import ULID


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the time now, aware, in UTC."""
        ...


class Entropy(Protocol):
    """Where identifiers come from."""

    def ulid(self, now: datetime) -> str:
        """Return a new event id or run id that carries this time."""
        ...

    def serial(self) -> int:
        """Return a new serial number: positive, 128 random bits, 17 octets in DER (failure F12)."""
        ...

    def token(self) -> str:
        """Return a new unguessable name: 128 random bits in lower-case hex."""
        ...

    def fraction(self) -> float:
        """Return a random number from 0 to below 1, to spread what would else come at once."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time now, aware, in UTC."""
        return datetime.now(UTC)  # this is the one clock


class SystemEntropy:
    """The machine's randomness."""

    def ulid(self, now: datetime) -> str:
        """Return a new ULID that carries this time (https://github.com/ulid/spec).

        All 80 bits are random each time: python-ulid's own count up within a millisecond, and so
        do ours (`stamping`), and both counting gave two events one id.
        """
        millisecond = int(now.timestamp() * 1000)
        return str(ULID.from_int(millisecond << 80 | secrets.randbits(80)))

    def serial(self) -> int:
        """Return 128 random bits below a bit that is always set (RFC 5280, 4.1.2.2: 20 octets)."""
        return 1 << 128 | secrets.randbits(128)

    def token(self) -> str:
        """Return 128 random bits in hex."""
        return secrets.token_hex(16)

    def fraction(self) -> float:
        """Return 53 random bits as a fraction."""
        return secrets.randbits(53) / (1 << 53)
