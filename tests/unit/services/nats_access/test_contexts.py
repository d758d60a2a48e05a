from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.nats_access import contexts
from services.nats_access.contexts import ContextError
from services.nats_access.layout import NatsLayout


def test_a_context_says_all_that_the_cli_needs(tmp_path: Path) -> None:
    layout = NatsLayout(tmp_path, "dc1")

    file = contexts.write(layout, "shop", url="tls://127.0.0.1:4222", ca=layout.transport_ca)

    assert file == tmp_path / "nats" / "context" / "shop.json"
    assert json.loads(file.read_text()) == {
        "description": "caledger dc1: shop",
        "url": "tls://127.0.0.1:4222",
        "creds": str(tmp_path / "nats" / "context" / "shop.creds"),
        "inbox_prefix": "_INBOX.shop",
        "ca": str(tmp_path / "nats" / "tls" / "ca.pem"),
        "tls_first": True,
    }


def test_in_clear_text_a_context_names_no_ca(tmp_path: Path) -> None:
    file = contexts.write(NatsLayout(tmp_path, "dc1"), "shop", url="nats://127.0.0.1:1", ca=None)

    assert not {"ca", "tls_first"} & set(json.loads(file.read_text()))


def test_when_the_server_moves_every_context_says_so(tmp_path: Path) -> None:
    layout = NatsLayout(tmp_path, "dc1")
    for name in ("admin", "shop"):
        contexts.write(layout, name, url="nats://127.0.0.1:1", ca=None)
        layout.client_creds(name).write_text("creds")

    written = contexts.write_all(layout, url="nats://127.0.0.1:2", ca=None)

    assert written == [layout.context("admin"), layout.context("shop")]
    assert {contexts.read(file).url for file in written} == {"nats://127.0.0.1:2"}


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"url": 1}'])
def test_a_context_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "shop.json"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ContextError, match=r"shop\.json"):
        contexts.read(file)
