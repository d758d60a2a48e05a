"""Serial numbers that were given to be revoked: which of them are of leaves that live."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from services.outcomes import RevocationLists

Count = Callable[[Sequence[str]], Awaitable[int]]
"""Says how many live leaves, not revoked yet, have one of these serials."""


async def not_live(serials: Sequence[str], live: int, count: Count) -> list[str]:
    """Return which of these are of no leaf that could be revoked; `live`: how many are of one.

    Asks about ever smaller parts: few questions, where few are unknown.
    """
    if live >= len(serials):
        return []
    if live == 0:
        return list(serials)
    half = len(serials) // 2
    first, last = serials[:half], serials[half:]
    of_first = await count(first)
    return [
        *await not_live(first, of_first, count),
        *await not_live(last, live - of_first, count),
    ]


def listed(serials: Iterable[str], found: RevocationLists) -> set[str]:
    """Return which of these are on a revocation list."""
    from cryptography import x509

    lists = [x509.load_pem_x509_crl(one.crl.encode()) for one in found.lists if one.crl is not None]
    return {
        serial
        for serial in serials
        if any(
            one.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None
            for one in lists
        )
    }
