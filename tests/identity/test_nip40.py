import pytest

from identity import SecretKey, is_expired, make_rumor, make_template, nip40, sign_event

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], None),
        ([["expiration"]], None),
        ([["expiration", ""]], None),
        ([["expiration", "soon"]], None),
        ([["expiration", "-1"]], None),
        ([["expiration", "1.5"]], None),
        ([["expiration", " 1"]], None),
        ([["expiration", "1\n"]], None),
        ([["expiration", "٢"]], None),
        ([["expiration", "9" * 17]], None),
        ([["expiration", "0"]], 0),
        ([["expiration", "1600000000"]], 1_600_000_000),
        ([["expiration", "1"], ["expiration", "2"]], 1),
    ],
)
def test_expiration(alice: SecretKey, tags: list[list[str]], expected: int | None) -> None:
    template = make_template(1, tags=tags, created_at=NOW)
    for event in (template, make_rumor(template, alice.public_key), sign_event(template, alice)):
        assert nip40.expiration(event) == expected


@pytest.mark.parametrize(
    ("expires_at", "expired"), [(NOW - 1, True), (NOW, True), (NOW + 1, False), (None, False)]
)
def test_is_expired(expires_at: int | None, expired: bool) -> None:
    tags = [] if expires_at is None else [["expiration", str(expires_at)]]
    assert is_expired(make_template(1, tags=tags, created_at=NOW), NOW) is expired
