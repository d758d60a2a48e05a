"""What other machines may call this one: for the server's certificate."""

from __future__ import annotations

import ctypes
import ipaddress
import re
import socket
import sys
from collections.abc import Iterator
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME: Final = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*")
_ADDRESS_AT: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (4, 4),
    socket.AF_INET6: (8, 16),
}  # offset, bytes


class _Interface(ctypes.Structure):
    """The head of `struct ifaddrs` (getifaddrs(3)), the same on Linux and BSD."""


_Interface._fields_ = [
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def check(name: str) -> str:
    """Return a DNS name or an IP address that a certificate can hold; raises ValueError."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        if not _DNS_NAME.fullmatch(name) or name.replace(".", "").isdecimal():
            raise ValueError(f"{name!r} is neither a DNS name nor an IP address") from None
        return name


def host_names(*, in_full: bool) -> list[str]:
    """Return what this machine calls itself, `in_full` too (which may ask a name server)."""
    names = dict.fromkeys([socket.gethostname(), *([socket.getfqdn()] if in_full else [])])
    return [name for name in names if _DNS_NAME.fullmatch(name) and not name.endswith(".arpa")]


def local_addresses() -> list[IPAddress]:
    """Return the addresses of all interfaces, but those that hold on one link only."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Interface)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "the addresses of this machine cannot be read")
    try:
        found = {address for address in _addresses(first) if not address.is_link_local}
    finally:
        libc.freeifaddrs(first)
    return sorted(found, key=lambda address: (address.version, int(address)))


def _addresses(interface: ctypes._Pointer[_Interface]) -> Iterator[IPAddress]:
    while interface:  # type: ignore[truthy-bool]  # a null pointer is false
        entry = interface.contents
        if entry.address:
            # Linux has a family of two bytes, BSD a length and a family.
            head = ctypes.string_at(entry.address, 2)
            family = head[1] if sys.platform == "darwin" else int.from_bytes(head, sys.byteorder)
            if family in _ADDRESS_AT:
                offset, size = _ADDRESS_AT[family]
                yield ipaddress.ip_address(ctypes.string_at(entry.address + offset, size))
        interface = entry.next
