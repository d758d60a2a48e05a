"""Request ids that are being worked on: whoever asks for one again waits for the same answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.signer import decide
from services.signer.work import Work

REPLIES_MAX: Final = 64  # to one request id


class Pending:
    """The works under way, by identity and request id; `ended` hears of each that is over."""

    def __init__(self, ended: Callable[[Work], None]) -> None:
        self._ended = ended
        self._works: dict[tuple[str, str], Work] = {}

    def join(self, work: Work) -> bool:
        """Let a request wait for the answer to an earlier one of its request id, if there is one.

        Raises RefusedError `request_id_conflict` where that had another CSR.
        """
        first = self._works.get(work.key) if work.key is not None else None
        if first is None or first is work:
            return False
        assert work.request is not None
        if work.request.csr_der is not None:
            decide.same_csr(work.request.request_id, work.csr_sha256, first.csr_sha256)
        first.submissions += [one for one in work.submissions if one not in first.submissions]
        room = REPLIES_MAX - len(first.replies)
        first.replies += [reply for reply in work.replies if reply not in first.replies][:room]
        return True

    def waits(self, work: Work) -> bool:
        """Say whether another request of its id is worked on."""
        return work.key is not None and self._works.get(work.key) not in (None, work)

    def begin(self, work: Work) -> None:
        """Take note of a work whose request id nobody works on."""
        if work.key is not None:
            self._works[work.key] = work

    def end(self, work: Work) -> None:
        """Nobody waits for this work any more."""
        if work.key is not None and self._works.get(work.key) is work:
            del self._works[work.key]
        self._ended(work)
