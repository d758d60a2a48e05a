"""Whether an append is stored, after an answer that does not say it (architecture 3.1, rule 6)."""

from __future__ import annotations

from nats.aio.client import Client

from events import jetstream
from events.append import Append
from events.base import Moment, Struct
from events.envelope import Stored
from events.log import Appended, ConflictError, LedgerError, NotAcceptedError
from events.reader import LedgerReader


class NotDefiniteError(LedgerError):
    """It cannot be told yet: send the same again."""


class _Message(Struct):
    seq: int
    subject: str
    time: Moment
    data: bytes = b""


class _Got(Struct):
    message: _Message


class Lookup:
    """Asks the stream's leader for single messages, and settles appends."""

    def __init__(self, nc: Client, stream: str, reader: LedgerReader) -> None:
        self._nc = nc
        self._get = f"$JS.API.STREAM.MSG.GET.{stream}"
        self._stream = stream
        self._reader = reader

    async def message(self, wanted: dict[str, object]) -> Stored | None:
        """Return the message that the leader finds for `STREAM.MSG.GET`; None where there is none.

        Raises UnreachableError where nobody answers.
        """
        reply, error = await jetstream.request(self._nc, self._get, wanted)
        if error is None:
            found = jetstream.decode(reply, _Got).message
            return Stored(
                sequence=found.seq, subject=found.subject, stored=found.time, data=found.data
            )
        if error.err_code == jetstream.NO_MESSAGE:
            return None
        raise LedgerError(f"{self._get}: {error}")

    async def last_sequence(self) -> int:
        """Return the last sequence of the stream; raises UnreachableError."""
        return (await jetstream.stream_state(self._nc, self._stream)).last_seq

    async def settle_duplicate(self, append: Append, sequence: int) -> Appended:
        """Settle an append whose message id the server says is stored at `sequence`.

        Raises NotAcceptedError where that is another entry, NotDefiniteError where it is not seen.
        """
        found = await self.message({"seq": sequence})
        if found is None:
            raise NotDefiniteError(f"sequence {sequence} is not seen yet")
        if not _is(found, append):
            raise NotAcceptedError(f"event id {append.message_id} is used at sequence {sequence}")
        return _appended(append, found)

    async def settle_past(self, append: Append, moved_to: int) -> Appended:
        """Settle an append whose condition is past: stored before that, or never.

        `moved_to`: the sequence that the condition's subject is said to be at; 0: not known. Raises
        ConflictError where it is not stored, NotDefiniteError where that cannot be told.
        """
        if append.condition_subject == append.messages[0].subject:
            found, condition = await self._next(append)
        else:
            found, condition = await self._last(append, moved_to)
        if found is not None and _is(found, append):
            return _appended(append, found)
        raise ConflictError(append.condition_subject, max(moved_to, condition))

    async def told_by_one_behind(self, append: Append, told: int) -> LedgerError:
        """Return what it means that the condition's subject is said to be at an earlier sequence.

        So speaks a leader that was deposed and does not know it (it was stopped, or cut off): it
        has not seen what the append was decided on. The other leader hears the same append and may
        have stored it, and whose answer comes first is chance. So it says nothing, unless something
        else stands where the condition's entry should: then nobody ever stores it.
        """
        found = await self._reader.read(append.condition_sequence - 1, limit=1)
        if found and found[0].subject != append.condition_subject:
            return ConflictError(append.condition_subject, told)
        return NotDefiniteError(
            f"{append.condition_subject} is said to be at {told}, by one who is behind"
        )

    async def _next(self, append: Append) -> tuple[Stored | None, int]:
        """Return what follows the condition on its own subject: ours, or what came before ours.

        A leader that was deposed and does not know it tells the truth here as well, or nothing.
        """
        after = {"seq": append.condition_sequence + 1, "next_by_subj": append.condition_subject}
        found = await self.message(after)
        if found is None:
            raise NotDefiniteError("the condition is said to be past, but nothing follows it yet")
        return found, found.sequence

    async def _last(self, append: Append, moved_to: int) -> tuple[Stored | None, int]:
        """Return the last entry of a writer whose condition stands on another subject.

        If ours is stored at all it is the last there, since one is in flight at a time. One replica
        tells both subjects as they are at one moment, and counts only if it has seen the condition
        move: whatever was stored under the condition came before that.
        """
        subject = append.messages[0].subject
        moved = append.condition_subject
        last = await self._reader.last_of([moved, subject])
        condition = last[moved].sequence if moved in last else 0
        if condition < (moved_to or append.condition_sequence + 1):
            raise NotDefiniteError("the condition is said to be past, but nothing follows it yet")
        return last.get(subject), condition


def _is(found: Stored, append: Append) -> bool:
    first = append.messages[0]
    return found.subject == first.subject and found.data == first.data


def _appended(append: Append, found: Stored) -> Appended:
    return Appended(sequence=found.sequence, messages=len(append.messages))
