"""`python -m services.cli`: how the supervisor starts a worker, whatever is on PATH."""

from __future__ import annotations

from services.cli import main

main()
