"""JSON as Consul's decoders take it (section 1.3): lenient in how names and numbers are written.

But a name that is not known is refused, and so is what would be half understood.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

import durationpy

from events.authority import LIFE_SECONDS_MAX
from events.base import INT_MAX
from services.consul_names import plain
from services.refusals import RefusedError, clip

_DURATION: Final = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
_NANOSECONDS: Final = 1_000_000_000
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,19}")


@dataclass(frozen=True)
class Field:
    """A key of the JSON, and what becomes of it; without an attribute it is only read."""

    attribute: str | None
    read: Callable[[Any], Any]
    show: Callable[[Any], Any] | None = None


def read_object(
    what: str,
    value: object,
    known: Mapping[str, Field],
    *,
    path: str = "",
    elsewhere: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read an object: attributes and values, without those that are null.

    `path`: what stands before its keys' names in a refusal. `elsewhere`: keys that belong into an
    object below this one, by the name of that.

    Names are compared as Consul's decoder does it: whatever their case, with or without
    underscores. A name that is not known is refused, with the nearest one that is.
    """
    if not isinstance(value, dict):
        raise bad_config(f"{what}: a JSON object was expected")
    names = {plain(name): name for name in known}
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for spelt, member in value.items():
        name = names.get(plain(spelt))
        if name is None:
            raise bad_config(
                f"{what}: there is no key {spelt[:80]!r}{_meant(spelt, names, elsewhere)}"
            )
        if name in seen:
            raise bad_config(f"{what}: {name!r} is given twice")
        seen.add(name)
        field = known[name]
        if member is None:
            continue
        try:
            read = field.read(member)
        except (ValueError, TypeError) as error:
            raise bad_config(f"{path}{name}: {error}") from error
        except OverflowError as error:
            raise bad_config(f"{path}{name}: the number is too large") from error
        if field.attribute is not None:
            values[field.attribute] = read
    return values


def _meant(spelt: str, names: Mapping[str, str], elsewhere: Mapping[str, Iterable[str]]) -> str:
    """Say which key may have been meant, where that can be guessed."""
    for place, others in elsewhere.items():
        if plain(spelt) in map(plain, others):
            return f": it belongs in {place}"
    near = difflib.get_close_matches(plain(spelt), names, n=1)
    return f": did you mean {names[near[0]]!r}?" if near else ""


def as_duration(value: object) -> int:
    """Read a life, in seconds: "72h" as Go writes it, nanoseconds, or the bytes of a text."""
    if isinstance(value, list):
        value = as_text(value)
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            raise ValueError(f"{value[:40]!r} is no duration: write it like 72h or 1h30m")
        try:
            seconds = durationpy.from_str(value).total_seconds()
        except (durationpy.DurationError, OverflowError):
            seconds = math.inf
    else:
        number = as_whole(value)
        if 0 < number < _NANOSECONDS:
            raise ValueError(
                f'{number} means nanoseconds, as in Go: write a text with its unit, like "24h"'
            )
        seconds = number / _NANOSECONDS
    if not 1 <= seconds <= LIFE_SECONDS_MAX or seconds != int(seconds):
        raise ValueError("certificates live for whole seconds, from 1 to those of 100 years")
    return int(seconds)


def as_text(value: object) -> str:
    """Read a text, or the bytes of one."""
    if isinstance(value, list) and all(isinstance(one, int) and 0 <= one < 256 for one in value):
        value = bytes(value).decode("utf-8")
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value


def as_whole(value: object) -> int:
    """Read a whole number, also one in a text."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError("a whole number was expected")
    return int(value)


def as_count(value: object) -> int:
    """Read a number of things."""
    number = as_whole(value)
    if not 0 <= number <= INT_MAX:
        raise ValueError("0 (off) or more was expected")
    return number


def as_number(value: object) -> float:
    """Read a finite number, also one in a text."""
    number = math.nan
    with suppress(ValueError):
        number = float(value) if isinstance(value, str | int | float) else math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise TypeError("a number was expected")
    return number


def as_bool(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise TypeError("true or false was expected")
    return value


def short_duration(seconds: int) -> str:
    """Write a life as operators do: 72h."""
    return str(durationpy.to_str(timedelta(seconds=seconds)))


def as_it_is(value: object) -> object:
    """Take a value as it is."""
    return value


def bad_config(text: str) -> RefusedError:
    """Return the refusal of a configuration."""
    return RefusedError("bad_config", clip(text))
