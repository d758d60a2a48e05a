"""Crashes between any two things that leave a process, in tests that run in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

APPENDS: Final = frozenset({"append_authority"})
KEY_STEPS: Final = frozenset({"create", "keep", "share", "sign", "stored", "destroy"})


class CrashError(BaseException):
    """The process is no more. Nothing that catches an `Exception` sees it."""


async def crash() -> None:
    """End the process."""
    raise CrashError


class Fuse:
    """Counts the steps that are left before the crash; not set, there is none."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.end: Callable[[], Awaitable[None]] = crash  # or what else happens then

    async def burn(self) -> None:
        """Take one step; at the last comes the end, which raises CrashError."""
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            await self.end()
        else:
            self.left -= 1


def fused(real: T, fuse: Fuse, steps: frozenset[str]) -> T:
    """Return the same with a step of the fuse before and after each call of these methods.

    After it: what was called happened, and nobody heard of it.
    """
    return cast("T", _Fused(real, fuse, steps))


class _Fused:
    def __init__(self, real: Any, fuse: Fuse, steps: frozenset[str]) -> None:
        self._real = real
        self._fuse = fuse
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._burning(found) if name in self._steps else found

    def _burning(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def burning(*args: Any, **kwargs: Any) -> Any:
            await self._fuse.burn()
            result = await call(*args, **kwargs)
            await self._fuse.burn()
            return result

        return burning
