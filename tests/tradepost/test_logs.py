"""Logs: on stderr, one line per event, and never a secret in them."""

import orjson
import pytest
import structlog
from structlog.testing import capture_logs

from identity import SecretKey, encode_nsec
from tradepost.errors import ConfigError
from tradepost.logs import configure_logs, ensure_logs
from tradepost.testing import Market
from wallet import Seed, encode_token


@pytest.fixture(autouse=True)
def _as_it_was(home: object) -> None:
    """`home` takes our configuration of the logs back."""


def test_warnings_and_worse_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    log = structlog.get_logger("test")
    log.info("too_quiet")
    log.warning("mint_unavailable", reason="down")
    out, err = capsys.readouterr()
    assert out == ""
    assert "too_quiet" not in err
    assert "mint_unavailable" in err
    assert "reason=down" in err


def test_the_level_is_chosen_by_argument_then_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_LOG", "INFO")
    configure_logs()
    structlog.get_logger("test").info("told")
    structlog.get_logger("test").debug("not_told")
    configure_logs("debug")
    structlog.get_logger("test").debug("told_now")
    err = capsys.readouterr().err
    assert "told" in err
    assert "not_told" not in err
    assert "told_now" in err
    monkeypatch.setenv("TRADEPOST_LOG", "everything")
    with pytest.raises(ConfigError, match="TRADEPOST_LOG"):
        configure_logs()


def test_an_application_keeps_the_logs_it_configured() -> None:
    with capture_logs() as events:
        ensure_logs()
        structlog.get_logger("test").warning("still_here")
    assert [event["event"] for event in events] == ["still_here"]


async def secrets() -> dict[str, tuple[str, list[str]]]:
    """Texts that could end in a log, and the parts of them that must not."""
    async with Market() as market:
        wallet = (await market.post("shop", sat=21)).wallet
        token = await wallet.send(market.mint.url, 5)
    nsec = encode_nsec(SecretKey.generate())
    proof = token.proofs[0]
    payload = orjson.dumps({"proofs": [{"amount": 1, "secret": proof.secret, "C": proof.C}]}).decode()
    lock = orjson.dumps({"secret": '["P2PK",{"nonce":"c0ffee","data":"02ab"}]'}).decode()
    return {
        "nsec": (f"key {nsec} given", [nsec[5:]]),
        "encrypted": ("ncryptsec1" + "q" * 100, ["q" * 30]),
        "V4": (encode_token(token), [encode_token(token)[8:]]),
        "V3": (f"cashu:{encode_token(token, version=3)}.", [encode_token(token, version=3)[8:]]),
        "JSON": (payload, [proof.secret]),
        "JSON in JSON": (orjson.dumps(payload).decode(), [proof.secret]),
        "repr": (repr(orjson.loads(payload)), [proof.secret]),
        "lock": (lock, ["c0ffee"]),
        "bunker": (f"bunker://{'ab' * 32}?relay=wss%3A%2F%2Fr&secret=71a8c14c", ["71a8c14c"]),
        "invitation": (f"nostrconnect://{'ab' * 32}?secret=71a8c14c&relay=wss://r", ["71a8c14c"]),
        "password": ("TRADEPOST_PASSWORD=hunter2 tradepost up", ["hunter2"]),
        "URI": ("nostr+walletconnect://ab?relay=wss://r&secret=71a8c14c1407", ["71a8c14c1407"]),
    }


async def test_secrets_are_blotted_out_wherever_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    log = structlog.get_logger("test")
    for name, (text, hidden) in (await secrets()).items():
        log.warning(text)
        log.warning("event", value=text, deep={"list": [text]}, error=ValueError(text))
        try:
            raise RuntimeError(text)
        except RuntimeError:
            log.exception("failed")
        err = capsys.readouterr().err
        assert err.count("[secret]") >= 5, name
        assert not [part for part in hidden if part in err], name


async def test_our_own_values_hide_what_they_hold() -> None:
    """The second line of defence: what is logged by mistake as an object shows nothing either."""
    async with Market() as market:
        wallet = (await market.post("shop", sat=21)).wallet
        token = await wallet.send(market.mint.url, 5)
    seed, key = Seed.generate(), SecretKey.generate()
    shown = repr([token, *token.proofs, seed, key]) + str(seed) + str(key)
    secret_parts = [part for proof in token.proofs for part in (proof.secret, proof.C)]
    for part in (*secret_parts, seed.words, encode_nsec(key), key.to_bytes().hex(), str(key.to_bytes())):
        assert part not in shown


def test_ordinary_words_and_values_stay(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    structlog.get_logger("test").warning(
        "a_word", reason="a secret, nobody knows it", count=5, kinds=(1059, 21059)
    )
    err = capsys.readouterr().err
    assert "a secret, nobody knows it" in err
    assert "count=5" in err
    assert "(1059, 21059)" in err
