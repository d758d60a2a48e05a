"""NATS JSON web tokens, version 2, and the creds files that carry them.

Format: https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt; the id of a token is
the SHA-512/256 of its claims, as in github.com/nats-io/jwt.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from events.base import Struct
from services.nats_access.files import write_atomically

TOKEN_BYTES_MAX: Final = 64 * 1024  # of a token that we read; an account's is about 4 kB

_HEADER: Final = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_USER_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CREDS_TOKEN = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")


class TokenError(ValueError):
    """Not a token, or not a creds file; the text says which file."""


class Signer(Protocol):
    """A key pair that signs tokens (`services.nats_access.seeds.Nkey`)."""

    @property
    def public(self) -> str:
        """Return the public key as NATS writes it."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message."""
        ...


class Claims(Struct):
    """What a token says. Whether its signature holds is the server's to check."""

    iss: str  # public key of who signed it
    sub: str  # public key of whom it is about
    name: str
    iat: int  # seconds since 1970
    nats: dict[str, Any]
    jti: str = ""
    exp: int | None = None


def encode(
    signer: Signer,
    *,
    subject: str,
    name: str,
    nats: dict[str, Any],
    issued: datetime,
    expires: datetime | None = None,
) -> str:
    """Return a signed token about the public key `subject`."""
    claims: dict[str, Any] = {
        "jti": "",
        "iat": int(issued.timestamp()),
        "iss": signer.public,
        "name": name,
        "sub": subject,
        "nats": {**nats, "version": 2},
    }
    if expires is not None:
        claims["exp"] = int(expires.timestamp())
    digest = hashlib.new("sha512_256", msgspec.json.encode(claims)).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    signed = f"{_base64(_HEADER)}.{_base64(msgspec.json.encode(claims))}"
    return f"{signed}.{_base64(signer.sign(signed.encode()))}"


def decode(token: str) -> Claims:
    """Read a token's claims; raises TokenError. The signature is not checked."""
    parts = token.split(".")
    if len(token) > TOKEN_BYTES_MAX or len(parts) != 3:
        raise TokenError("this is no NATS token")
    try:
        return msgspec.json.decode(_from_base64(parts[1]), type=Claims)
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise TokenError(f"this is no NATS token: {error}") from error


def read(file: Path) -> Claims:
    """Read a file with nothing but a token in it; raises TokenError."""
    try:
        return decode(file.read_text().strip())
    except OSError as error:
        raise TokenError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise TokenError(f"{file}: {error}") from error


def write_creds(file: Path, token: str, seed: bytes) -> None:
    """Write a user's token and seed where a NATS client reads them; readable by the owner only."""
    text = (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "Anyone who holds this file is this user.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    write_atomically(file, text.encode(), mode=0o600)


def read_creds(file: Path) -> Claims:
    """Read who a creds file is; raises TokenError, also where there is no such file."""
    try:
        text = file.read_text()
    except OSError as error:
        raise TokenError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokenError(f"{file}: not a NATS creds file") from error
    found = _CREDS_TOKEN.search(text[:TOKEN_BYTES_MAX])
    if found is None:
        raise TokenError(f"{file}: not a NATS creds file")
    try:
        return decode(found.group(1))
    except TokenError as error:
        raise TokenError(f"{file}: {error}") from error


def user_name(file: Path) -> str:
    """Return the name in a creds file, which is also the user's inbox; raises TokenError."""
    name = read_creds(file).name
    if not _USER_NAME.fullmatch(name):
        raise TokenError(f"{file}: {name!r} cannot be the name of a user's inbox")
    return name


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
