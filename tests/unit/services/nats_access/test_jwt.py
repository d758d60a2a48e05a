from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from services.nats_access import jwt
from services.nats_access.jwt import TokenError
from services.nats_access.seeds import Kind, Nkey

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def token(name: str = "shop", *, expires: datetime | None = None) -> str:
    return jwt.encode(
        Nkey.generate(Kind.ACCOUNT),
        subject="U-KEY",
        name=name,
        nats={"type": "user"},
        issued=NOW,
        expires=expires,
    )


def test_a_token_says_what_was_to_be_said() -> None:
    claims = jwt.decode(token(expires=NOW + timedelta(days=1)))

    assert (claims.sub, claims.name, claims.iat) == ("U-KEY", "shop", 1893553445)
    assert claims.exp == 1893553445 + 86400
    assert claims.nats == {"type": "user", "version": 2}


def test_a_token_is_signed_by_whom_it_names() -> None:
    signer = Nkey.generate(Kind.ACCOUNT)
    text = jwt.encode(signer, subject="U", name="n", nats={}, issued=NOW)
    signed, _, signature = text.rpartition(".")
    raw = base64.b32decode(signer.public + "=" * (-len(signer.public) % 8))[1:33]

    Ed25519PublicKey.from_public_bytes(raw).verify(unpadded(signature), signed.encode())

    head, claims = signed.split(".")
    assert json.loads(unpadded(head)) == {"typ": "JWT", "alg": "ed25519-nkey"}
    assert json.loads(unpadded(claims))["iss"] == signer.public


def test_a_tokens_id_is_the_hash_of_its_claims_without_it() -> None:
    claims = json.loads(unpadded(token().split(".")[1]))
    found, claims["jti"] = claims["jti"], ""

    content = json.dumps(claims, separators=(",", ":")).encode()
    digest = hashlib.new("sha512_256", content).digest()
    assert found == base64.b32encode(digest).rstrip(b"=").decode()


@given(st.text())
def test_any_text_is_a_token_or_an_error(text: str) -> None:
    with pytest.raises(TokenError):
        jwt.decode(text)


@pytest.mark.parametrize("claims", [b"", b"[]", b'{"sub": 1}', b'{"iss":"a","sub":"b"}'])
def test_claims_that_say_too_little_are_an_error(claims: bytes) -> None:
    middle = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    with pytest.raises(TokenError):
        jwt.decode(f"a.{middle}.c")


def test_a_token_that_is_too_long_is_not_read() -> None:
    with pytest.raises(TokenError):
        jwt.decode(f"a.{'e' * jwt.TOKEN_BYTES_MAX}.c")


def test_a_creds_file_is_read_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "shop.creds"

    jwt.write_creds(file, token(), b"SUSEED")

    assert jwt.read_creds(file).sub == "U-KEY"
    assert jwt.user_name(file) == "shop"
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"SUSEED" in file.read_bytes()


@pytest.mark.parametrize("name", ["", "a.b", ">", "*", "a b", "é", "x" * 129])
def test_a_name_that_is_no_inbox_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "shop.creds"
    jwt.write_creds(file, token(name), b"SUSEED")

    with pytest.raises(TokenError):
        jwt.user_name(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"-----BEGIN NATS USER JWT-----\nx\n"])
def test_a_file_that_is_no_creds_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "shop.creds"
    file.write_bytes(content)

    with pytest.raises(TokenError, match=r"shop\.creds"):
        jwt.read_creds(file)


def test_a_creds_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"shop\.creds"):
        jwt.user_name(tmp_path / "shop.creds")
