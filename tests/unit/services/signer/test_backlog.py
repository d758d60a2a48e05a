"""Durable requests that wait: each in hand once, later each time it cannot be done, never lost."""

from __future__ import annotations

from services.signer.backlog import AGAIN_SECONDS, AGAIN_SECONDS_MAX, Backlog
from services.signer.submit_queue import Submission

WEB = "ca.dc1.work.50.service.web"


def submission(sequence: int, request_id: str = "r", *, partition: int | None = 50) -> Submission:
    body = f'{{"csr": 7, "request_id": "{request_id}"}}'.encode()
    return Submission(sequence=sequence, subject=WEB, partition=partition, body=body)


def backlog(*submissions: Submission) -> Backlog:
    made = Backlog()
    for each in submissions:
        made.add(each)
    return made


def due(waiting: Backlog, now: float = 0.0, room: int = 10) -> list[int]:
    return waiting.due(now, room, served=lambda _: True)


def test_what_waits_is_worked_on_in_its_order_while_there_is_room_and_never_twice() -> None:
    waiting = backlog(submission(3), submission(5), submission(9), submission(5))

    assert due(waiting, room=2) == [3, 5]
    assert waiting.take(3)
    assert due(waiting) == [5, 9]
    assert waiting.in_hand == 1
    waiting.put_back([3])
    assert due(waiting) == [3, 5, 9]


def test_of_a_partition_that_is_not_served_yet_nothing_is_worked_on() -> None:
    waiting = backlog(submission(3), submission(5, partition=7))

    assert waiting.due(0.0, 10, served=lambda partition: partition == 7) == [5]


def test_what_cannot_be_done_now_is_tried_later_each_time_and_at_least_as_late_as_told() -> None:
    waiting = backlog(submission(3))
    delays = []
    for _ in range(12):
        assert waiting.take(3)
        waiting.again([3], 100.0, retry_after=0.0)
        delays.append(next(s for s in range(1, 4_000) if due(waiting, 100.0 + s / 100)) / 100)

    assert delays[:3] == [AGAIN_SECONDS, AGAIN_SECONDS * 2, AGAIN_SECONDS * 4]
    assert delays[-1] == AGAIN_SECONDS_MAX
    other = backlog(submission(3))
    other.again([3], 100.0, retry_after=5.0)
    assert (due(other, 104.9), due(other, 105.0)) == ([], [3])


def test_a_request_id_is_held_until_the_last_of_it_is_gone() -> None:
    waiting = backlog(submission(3, "a"), submission(5, "a"), submission(9, "b"))

    waiting.gone([3])
    assert waiting.holds(WEB, "a")
    waiting.gone([5, 5])
    assert not waiting.holds(WEB, "a")
    assert waiting.holds(WEB, "b")
    assert not waiting.holds("ca.dc1.work.50.service.db", "b")
    assert not waiting.take(3)
    assert len(waiting) == 1


def test_what_another_signer_has_now_or_somebody_removed_is_forgotten() -> None:
    waiting = backlog(submission(3), submission(5, partition=7), submission(9, partition=None))
    assert len(waiting) == 2

    waiting.keep_partitions({50})
    assert due(waiting) == [3]
    waiting.keep_read({4})
    assert due(waiting) == []
