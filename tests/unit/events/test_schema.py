"""What others need from us: the schemas, and that they leave no room for a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from events.base import Event
from events.catalogue import TYPES
from events.schema import ENTRY, ENVELOPE, schema

SECRET = re.compile(
    r"secret|private|passw|token|credential|seed|kek|pem|api_?key|access_?key|pkcs|pin\b|scalar"
)
TELLS_THE_KIND_OF_A_KEY = {"private_key_type", "private_key_bits"}


def _properties(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield from part["properties"]
        for value in part.values():
            yield from _properties(value)
    elif isinstance(part, list):
        for value in part:
            yield from _properties(value)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def test_every_event_type_is_described_under_its_own_name() -> None:
    definitions = schema()["$defs"]

    assert {*TYPES, ENTRY, ENVELOPE} <= set(definitions)
    for name, kind in TYPES.items():
        assert set(definitions[name]["properties"]) == set(kind.__struct_fields__)


def test_an_entry_is_a_list_of_the_types_that_there_are() -> None:
    items = schema()["$defs"][ENTRY]["items"]["oneOf"]

    assert [each["properties"]["type"]["const"] for each in items] == list(TYPES)
    assert [each["properties"]["data"]["$ref"] for each in items] == [
        f"#/$defs/{name}" for name in TYPES
    ]


def test_every_reference_leads_somewhere() -> None:
    document = schema()

    references = set(_references(document))

    assert references
    assert {each.removeprefix("#/$defs/") for each in references} <= set(document["$defs"])


def test_f22_f27_no_event_has_a_field_that_could_hold_a_secret() -> None:
    names = set(_properties(schema()))

    assert {"certificate", "serial", "private_key_type"} <= names
    assert {name for name in names if SECRET.search(name)} == TELLS_THE_KIND_OF_A_KEY


def test_f22_f27_the_search_for_secrets_finds_one() -> None:
    with_a_secret: dict[str, Any] = {"properties": {"config": {"properties": {"private_key": {}}}}}

    assert [name for name in _properties(with_a_secret) if SECRET.search(name)] == ["private_key"]


def test_every_event_type_is_in_the_catalogue() -> None:
    assert set(Event.__subclasses__()) == set(TYPES.values())
