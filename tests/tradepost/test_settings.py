"""The configuration: the environment over the file, lists in both, and where the data is."""

from pathlib import Path

import pytest

from identity import encode_npub
from tradepost.errors import ConfigError
from tradepost.post import limits_of
from tradepost.settings import FILE, PUBLIC_RELAYS, RequestLimits, Settings
from wallet.exposure import Caps


@pytest.fixture
def project(home: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / FILE).write_text(
        "relays:\n  - wss://One.test/\n  - wss://two.test\nmints: https://mint.test/\ncode: shop.py\nqueue_jobs_max: 7\n"
    )
    return folder


def test_without_a_file_it_is_the_persons_own_post(home: Path) -> None:
    settings = Settings.load()
    assert (settings.relays, settings.mints) == (PUBLIC_RELAYS, ())
    assert settings.data == home
    assert settings.code == str(Path.cwd() / "agent.py")
    assert settings.database.parent == settings.seed_file.parent == home
    assert settings.key_file("shop") == home / "keys" / "shop.nsec"


def test_without_a_named_home_it_is_where_data_belongs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRADEPOST_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Settings.load().data == Path("/data/tradepost")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert Settings.load().data == Path.home() / ".local/share/tradepost"


def test_a_project_has_its_data_beside_its_file(project: Path) -> None:
    settings = Settings.load(project)
    assert settings.relays == ("wss://one.test", "wss://two.test")
    assert settings.mints == ("https://mint.test",)
    assert settings.queue_jobs_max == 7
    assert settings.data == project / ".tradepost"
    assert settings.code == str(project / "shop.py")


def test_the_environment_wins_over_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://three.test, ws://four.test ws://three.test/")
    monkeypatch.setenv("TRADEPOST_QUEUE_JOBS_MAX", "8")
    monkeypatch.setenv("TRADEPOST_DATA", "elsewhere")
    settings = Settings.load(project)
    assert settings.relays == ("ws://three.test", "ws://four.test")
    assert settings.queue_jobs_max == 8
    assert settings.mints == ("https://mint.test",)
    assert settings.data == project / "elsewhere"


def test_what_code_says_wins_over_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the demo and `Market` never touch the person's own relays, mints and coins."""
    monkeypatch.setenv("TRADEPOST_RELAYS", "wss://real.test")
    monkeypatch.setenv("TRADEPOST_MINTS", "https://real.test")
    settings = Settings(relays=("ws://relay.test",), mints=("https://mint.test",))
    assert (settings.relays, settings.mints) == (("ws://relay.test",), ("https://mint.test",))


def test_an_empty_file_configures_nothing(project: Path) -> None:
    (project / FILE).write_text("# to be written\n")
    assert Settings.load(project).relays == PUBLIC_RELAYS


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("QUEUE_JOBS_MAX", "-1", "TRADEPOST_QUEUE_JOBS_MAX"),
        ("RELAYS", "relay.test", "TRADEPOST_RELAYS: not a relay URL"),
        ("MINTS", "mint.test", "TRADEPOST_MINTS: a mint's URL is"),
    ],
)
def test_a_bad_variable_is_named_though_the_file_has_the_field(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"TRADEPOST_{name}", value)
    with pytest.raises(ConfigError, match=said):
        Settings.load(project)


def test_a_file_that_cannot_be_read_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match=rf"{FILE} cannot be read: Is a directory"):
        Settings.load(tmp_path)
    (tmp_path / FILE).rmdir()
    (tmp_path / FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Settings.load(tmp_path)


def test_caps_and_fees_of_single_mints_and_agents(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / FILE).write_text(
        "mint_sat_max: 5000\nmint_sat_max_of: {https://Mint.test/: 70}\nsweep_sat_above: 60\nfee_bps: 300\n"
        "agent_fee_bps: {shouter: 0}\nsweep_to: me@wallet.test\n"
    )
    settings = Settings.load(folder)
    assert settings.caps == Caps(5000, {"https://mint.test": 70}, 60)
    assert (settings.fee_bps, settings.agent_fee_bps, settings.sweep_to) == (
        300,
        {"shouter": 0},
        "me@wallet.test",
    )
    for line, said in (
        ("fee_bps: 10001", "fee_bps"), ("agent_fee_bps: {shouter: -1}", "agent_fee_bps"), ("mint_sat_max: 0", "mint_sat_max"),
        ("mint_sat_max_of: {nowhere: 5}", "mint_sat_max_of"), ("sweep_to: nobody", "sweep_to"),
    ):  # fmt: skip
        (folder / FILE).write_text(line + "\n")
        with pytest.raises(ConfigError, match=said):
            Settings.load(folder)


def test_limits_of_callers_by_tier(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / FILE).write_text("http_requests_per_minute: {anonymous: 5}\n")
    assert Settings.load(project).http_requests_per_minute == RequestLimits(anonymous=5)
    monkeypatch.setenv("TRADEPOST_HTTP_REQUESTS_PER_MINUTE", '{"paying": 7}')
    assert Settings.load(project).http_requests_per_minute == RequestLimits(paying=7)
    for wrong, said in (
        ('{"anonimous": 5}', r"PER_MINUTE.anonimous: there is no such name"), ('{"paying": 0}', r"PER_MINUTE.paying"),
        ("60", r"expected names and values, like \{name"),
    ):  # fmt: skip
        monkeypatch.setenv("TRADEPOST_HTTP_REQUESTS_PER_MINUTE", wrong)
        with pytest.raises(ConfigError, match=said):
            Settings.load(project)


def test_lists_of_customers_are_keys(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "ab" * 32
    monkeypatch.setenv("TRADEPOST_BLOCKED", encode_npub(key))
    monkeypatch.setenv("TRADEPOST_ALLOWED", f"{key},{key}")
    limits = limits_of(Settings.load(project), "agent")
    assert limits.blocked == limits.allowed == (key,)
    monkeypatch.setenv("TRADEPOST_ALLOWED", "somebody")
    with pytest.raises(ConfigError, match="TRADEPOST_ALLOWED"):
        Settings.load(project)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("https://Post.Example", "https://post.example"),
        ("HTTPS://post.example:443/", "https://post.example"),
        ("https://post.example:8443", "https://post.example:8443"),
        ("https://faß.example", "https://xn--fa-hia.example"),
        ("https://[0::1]", "https://[::1]"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://localhost:8790/", "http://localhost:8790"),
    ],
)
def test_the_address_is_spelt_as_browsers_spell_it(given: str, read: str) -> None:
    """Callers sign the URL that theirs make of it."""
    settings = Settings(gateway_url=given, http_origins=(given, read))
    assert (settings.gateway_url, settings.http_origins) == (read, (read,))


@pytest.mark.parametrize(
    "given",
    [
        "https://user:secret@post.example", "https://post.example?x=1", "https://post.example#x", "https://post.example/x",
        "http://post.example", "https://", "https://post example", "https://post.example:99999", "post.example", "/",
        "https://a\\b", "ftp://post.example",
    ],
)  # fmt: skip
def test_an_address_with_anything_else_is_refused(given: str, project: Path) -> None:
    for name, value in (("gateway_url", given), ("http_origins", (given,))):
        with pytest.raises(ConfigError, match="without a path") as told:
            Settings.load(project, **{name: value})
        assert "secret" not in str(told.value)
