"""What a ruling says, read from an event that its arbiter wrote as it liked."""

import pytest

from dvm.escrow.agreement import RULING, award_of
from identity import SecretKey, make_template, sign_event

ARBITER = SecretKey(bytes([7]) * 32)


@pytest.mark.parametrize(
    ("awards", "sat"),
    [
        ([("award", "provider", "21")], 21),
        ([("award", "provider", "0")], 0),
        ([("award", "customer", "21")], 0),
        ([], 0),
        ([("award", "provider")], 0),
        ([("award", "provider", "-1")], 0),
        ([("award", "provider", "²1")], 0),
        ([("award", "provider", "1_0")], 0),
        ([("award", "provider", "9" * 5_000)], 0),  # int() raises over these
        ([("award", "provider", "1"), ("award", "provider", "2")], 0),
    ],
)
def test_an_award_is_one_number_of_sats_or_none(awards: list[tuple[str, ...]], sat: int) -> None:
    ruling = sign_event(make_template(RULING, tags=awards, created_at=0), ARBITER)
    assert award_of(ruling, "provider") == sat
