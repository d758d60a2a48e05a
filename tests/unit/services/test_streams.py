"""A stream is as it must be, or it is told which setting is not."""

from __future__ import annotations

import pytest

from events.subjects import Subjects
from services.streams import Settings, SetupError, compare, stream_settings

WANTED = stream_settings(Subjects("dc1"), replicas=1)[0]


def test_a_stream_as_it_was_made_is_accepted() -> None:
    left_out = [setting for setting, value in WANTED.items() if value is False]
    assert left_out

    compare(WANTED, WANTED)
    compare(WANTED, {key: value for key, value in WANTED.items() if key not in left_out})


@pytest.mark.parametrize("value", [True, 1, "on", ["x"], {"x": 1}])
def test_a_setting_of_a_later_version_is_told_and_not_ignored(value: object) -> None:
    found: Settings = {**WANTED, "forget_after_reading": value}

    with pytest.raises(
        SetupError, match=r"CA_LEDGER_dc1: setting forget_after_reading is .* unset"
    ):
        compare(WANTED, found)


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_a_setting_of_a_later_version_that_is_off_changes_nothing(value: object) -> None:
    compare(WANTED, {**WANTED, "forget_after_reading": value})
