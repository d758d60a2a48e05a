"""A step at which a worker's process ends or stands still, as soon as a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Final

STEP_SECONDS: Final = 30.0
SECONDS_BETWEEN_LOOKS: Final = 0.01
_NUMBERS: Final = count()


class Trap:
    """Stops the next process that reaches a step, once it is set; set again, the next one again."""

    def __init__(self, folder: Path, step: str, how: str) -> None:
        self._file = folder / f"trap-{next(_NUMBERS)}"
        self._file.touch()  # not set: whoever gets to the step believes that another was first
        self.environment: Mapping[str, str] = {
            "CALEDGER_TESTING_STOP_AT": f"{step}={how}",
            "CALEDGER_TESTING_ONCE": str(self._file),
        }

    def set(self) -> None:
        """Let it stop the next one."""
        self._file.unlink()

    @property
    def sprung(self) -> bool:
        """Say whether it has."""
        return self._file.exists()

    async def springs(self) -> None:
        """Wait until it has."""
        async with asyncio.timeout(STEP_SECONDS):
            while not self.sprung:
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
