"""JSON of people: no key twice."""

from __future__ import annotations

import pytest

from services.once_json import decode


def test_what_says_each_key_once_is_read() -> None:
    text = b'{"Config": {"A": 1.5, "B": [{"A": 1}, {"A": 2}]}, "A": null}'

    assert decode(text) == {"Config": {"A": 1.5, "B": [{"A": 1}, {"A": 2}]}, "A": None}


@pytest.mark.parametrize(
    "text", [b'{"A": 1, "A": 2}', b'{"Config": {"A": 1, "A": 1}}', b'[{"A": 1, "\\u0041": 2}]']
)
def test_a_key_that_is_said_twice_is_named(text: bytes) -> None:
    with pytest.raises(ValueError, match="'A' is given twice"):
        decode(text)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b"[" * 900 + b"]"])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
        decode(text)
