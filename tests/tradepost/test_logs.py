"""Logs: on stderr, one line per event, and never a secret in them."""

import json
import logging
from pathlib import Path

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
        "ticket": ("paid with tpt_" + "Aa0-_" * 8, ["Aa0-_"]),
        "session": ("tps_" + "Aa0-_" * 8 + " and tpr_" + "Bb1-_" * 8, ["Aa0-_", "Bb1-_"]),
        "bearer": ("Authorization: Bearer abcdefghijklmnopqrst", ["abcdefghijklmnopqrst"]),
        "header": ("Authorization: hunter2", ["hunter2"]),
        "NIP-98": (repr({"Authorization": "Nostr eyJpZCI6ImFiY2RlZmdoIn0="}), ["eyJpZCI6ImFiY2RlZmdoIn0"]),
        "k1": (f"https://x.example/cb?tag=login&k1={'ab' * 32}&sig=00", ["ab" * 32]),
        "k1 in JSON": (orjson.dumps({"k1": "cd" * 32}).decode(), ["cd" * 32]),
        "LNURL": ("open lightning:LNURL1" + "DP68GURN8GHJ7" * 4, ["DP68GURN8GHJ7"]),
        "preimage": (repr({"preimage": "ef" * 32}), ["ef" * 32]),
        "tokens": (
            orjson.dumps({"access_token": "q1w2e3", "refresh_token": "r4t5y6"}).decode(),
            ["q1w2e3", "r4t5y6"],
        ),
        "URI": ("nostr+walletconnect://ab?relay=wss://r&secret=71a8c14c1407", ["71a8c14c1407"]),
    }


@pytest.mark.parametrize("form", ["console", "json"])
async def test_secrets_are_blotted_out_wherever_they_are(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_LOG_FORMAT", form)
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


def test_as_json_every_line_is_one_object(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_LOG_FORMAT", "json")
    configure_logs("info")
    log = structlog.get_logger("test")
    log.info("answered", operation="get_job", status=200, path=Path("x"), big=2**80, keys={(1, 2): 3})
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        log.exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("answered", "info"), ("failed", "error")]
    assert (lines[0]["operation"], lines[0]["status"], lines[0]["big"]) == ("get_job", 200, 2**80)
    assert lines[0]["timestamp"].endswith("Z")
    assert "two\nlines" in lines[1]["exception"]


def test_what_libraries_log_goes_the_same_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setenv("TRADEPOST_LOG_FORMAT", "json")
    configure_logs("debug")
    library = logging.getLogger("some.library")
    library.setLevel("DEBUG")
    library.info("GET /?k1=%s", "ab" * 32)
    library.warning("was sent k1=%s", "ab" * 32)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in told] == ["was sent [secret]"]
    configure_logs("error")  # a handler is there: the application's, as it seems
    assert len(logging.root.handlers) == 1


def test_a_format_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="TRADEPOST_LOG_FORMAT is 'xml'; choose one of console, json"):
        configure_logs()
