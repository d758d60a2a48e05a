"""JSON of people: whoever says a key twice in one object is asked which of the two is meant."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def decode(text: bytes) -> Any:
    """Return what JSON says; raises ValueError, also where an object has a key twice.

    RFC 8259, section 4, lets every reader do with those what it likes: msgspec takes the last.
    """
    try:
        decoded = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    return decoded


def _once(members: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise ValueError(f"{name[:80]!r} is given twice")
        seen.add(name)
