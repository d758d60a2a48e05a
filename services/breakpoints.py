"""Testing only: end or stop this process at a named step, to show what a crash there costs.

`CALEDGER_TESTING_STOP_AT="signer.signed=KILL"` sends the signal to the process itself when it
reaches the step. With `CALEDGER_TESTING_ONCE=FILE` only the first process to get there does, and
leaves FILE behind. Without the variables this costs one comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Final

_STOP_AT: Final = os.environ.get("CALEDGER_TESTING_STOP_AT", "")  # noqa: TID251
_ONCE: Final = os.environ.get("CALEDGER_TESTING_ONCE", "")  # noqa: TID251


def reached(step: str) -> None:
    """Say that everything before `step` is done and nothing after it."""
    if not _STOP_AT or not _STOP_AT.startswith(f"{step}="):
        return
    if _ONCE:
        try:
            os.close(os.open(_ONCE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.Signals[f"SIG{_STOP_AT.partition('=')[2]}"])
