"""What goes on for ever is told of: not at once, not at every turn, and again."""

from __future__ import annotations

import asyncio
from typing import Final

from structlog.testing import capture_logs

from events.loudly import AGAIN_SECONDS, Loudly


class Hours(asyncio.SelectorEventLoop):
    """A loop whose clock a test sets."""

    hour: float = 0.0

    def time(self) -> float:
        return self.hour


TOLD: Final = {"event": "waiting", "subject": "x", "log_level": "warning"}


async def _wait(loop: Hours, patience: float, turns: list[float]) -> None:
    loudly = Loudly("waiting", patience=patience, subject="x")
    for turn in turns:
        loop.hour = turn
        loudly.still(f"at {turn:g}")


def told(patience: float, turns: list[float]) -> list[object]:
    loop = Hours()
    try:
        with capture_logs() as logs:
            loop.run_until_complete(_wait(loop, patience, turns))
    finally:
        loop.close()
    return [*logs]


def test_the_first_time_is_told_of_at_once_and_then_now_and_then() -> None:
    turns = [0.0, 0.1, AGAIN_SECONDS - 0.1, AGAIN_SECONDS, AGAIN_SECONDS + 1, 3 * AGAIN_SECONDS]

    assert told(0.0, turns) == [
        {**TOLD, "reason": "at 0"},
        {**TOLD, "reason": "at 5"},
        {**TOLD, "reason": "at 15"},
    ]


def test_a_wait_of_no_length_is_not_told_of() -> None:
    assert told(1.0, [0.0, 0.5, 0.9]) == []
    assert told(1.0, [0.0, 0.9, 1.0, 1.1]) == [{**TOLD, "reason": "at 1"}]
