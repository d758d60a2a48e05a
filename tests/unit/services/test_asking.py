"""How long our client is patient."""

from __future__ import annotations

from services.asking import ASK_AGAIN_SECONDS, ASK_AGAIN_SECONDS_MAX, ASK_AGAIN_SPREAD, patience


def test_f16_each_silence_makes_a_client_more_patient_up_to_a_bound() -> None:
    waits = [patience(sendings, 0.5) for sendings in range(1, 40)]

    assert waits[0] == ASK_AGAIN_SECONDS
    assert waits == sorted(waits)
    assert waits[-1] == ASK_AGAIN_SECONDS_MAX


def test_f16_clients_that_began_together_ask_again_apart() -> None:
    spread = ASK_AGAIN_SECONDS * ASK_AGAIN_SPREAD

    assert patience(1, 0.0) == ASK_AGAIN_SECONDS - spread
    assert ASK_AGAIN_SECONDS < patience(1, 0.999) < ASK_AGAIN_SECONDS + spread
