"""`caledger`, as a module to run, whose clock is later by the seconds that a file says, each time.

The server's clock, and so leases and the times of what is stored, stay what they are.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from services.cli import main
from services.clock import SystemClock

NAME: Final = "tests.scenarios.moved_clock"
VARIABLE: Final = "TESTS_CLOCK_FILE"


class ClockFile:
    """Where it stands how much later it is; never earlier than before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_text("0")

    @property
    def by(self) -> timedelta:
        """How much later it is."""
        return timedelta(seconds=float(self.path.read_text()))

    def now(self) -> datetime:
        """Return the time that it is for whoever has this clock."""
        return datetime.now(UTC) + self.by

    def forward(self, by: timedelta) -> None:
        """Let time pass."""
        new = self.path.with_suffix(".new")
        new.write_text(str((self.by + by).total_seconds()))
        new.replace(self.path)  # at once: others read it now


if __name__ == "__main__":
    clock = ClockFile(Path(os.environ[VARIABLE]))
    # All that the command runs takes its time from there.
    SystemClock.now = lambda _: clock.now()  # type: ignore[method-assign,assignment]
    main()
