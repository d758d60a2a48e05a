"""How a worker's process ends, so that its supervisor knows what starting it again is worth."""

from __future__ import annotations

import pytest
from nats.errors import ConnectionClosedError

from events.catalogue import UnknownEventTypeError
from events.log import GapError, OutcomeUnknownError, UnreachableError
from services.config import ConfigError
from services.keys.interface import WrongKeyEncryptionKeyError
from services.process import Ended, judge
from services.streams import SetupError
from services.transport import NotPermittedError


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (ConfigError("x"), Ended.USAGE),
        (NotPermittedError("x"), Ended.NOT_PERMITTED),
        (SetupError("x"), Ended.REFUSED),
        (WrongKeyEncryptionKeyError("x"), Ended.REFUSED),
        (UnknownEventTypeError("x"), Ended.REFUSED),
        (GapError("x"), Ended.REFUSED),
        (OutcomeUnknownError("x"), Ended.AWAY),
        (UnreachableError("x"), Ended.AWAY),
        (ConnectionClosedError(), Ended.AWAY),
        (OSError("disk"), Ended.AWAY),
        (AssertionError("x"), Ended.BUG),
        (ValueError("x"), Ended.BUG),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_says_whether_to_start_again(error: Exception, ended: Ended) -> None:
    assert judge(error)[0] is ended


def test_a_server_that_does_not_say_how_its_streams_are_is_asked_again() -> None:
    error = SetupError("no answer")
    error.__cause__ = UnreachableError("x")

    assert judge(error)[0] is Ended.AWAY


def test_the_worst_of_several_errors_counts() -> None:
    away, final, bug = OutcomeUnknownError("away"), ConfigError("final"), KeyError("bug")

    assert judge(ExceptionGroup("", [away, final]))[0] is Ended.USAGE
    assert judge(ExceptionGroup("", [away, ExceptionGroup("", [final, bug])]))[0] is Ended.BUG
    assert judge(ExceptionGroup("", [away]))[1] == "away"
