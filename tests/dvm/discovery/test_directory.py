"""What strangers announce, read and put into an order: never trusted, never shown raw."""

import json

import pytest

from dvm.discovery.directory import (
    Answers,
    Wanted,
    listings,
    measured,
    ranked,
    requests_answered,
    requests_repeated,
    with_answers,
)
from dvm.errors import BadRequest
from dvm.schemas import Param
from identity import Event, SecretKey, make_template, sign_event

NOW = 1_800_000_000
ALICE, BOB, CAROL = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))


def event(key: SecretKey, kind: int, *tags: tuple[str, ...], content: str = "", at: int = NOW) -> Event:
    return sign_event(make_template(kind, content=content, tags=tags, created_at=at), key)


def announced(key: SecretKey, *tags: tuple[str, ...], content: object = None, at: int = NOW) -> Event:
    text = content if isinstance(content, str) else json.dumps(content or {})
    return event(key, 31990, ("d", "x"), ("k", "5001"), *tags, content=text, at=at)


def test_a_foreign_announcement_as_deployed_ones_are() -> None:
    content = {"name": "Summariser", "image": "https://x.test/a.png", "about": "Shortens", "amount": "2500",
               "nip90Params": {"length": {"required": False, "values": ["short"]}}, "encryptionSupported": True}  # fmt: skip
    (found,) = listings([announced(ALICE, ("k", "5002"), ("t", "ai"), content=content)], [], NOW)
    assert (found.name, found.about, found.kinds, found.words) == (
        "Summariser",
        "Shortens",
        (5001, 5002),
        ("ai",),
    )
    assert (found.price_msat, found.alive, found.beat_at) == (2500, False, None)


def test_name_and_about_may_be_tags() -> None:
    (found,) = listings([announced(ALICE, ("name", "Tagged"), ("about", "in tags"), content="")], [], NOW)
    assert (found.name, found.about, found.price_msat) == ("Tagged", "in tags", None)


@pytest.mark.parametrize(
    ("amount", "tags", "price_msat"),
    [
        ("free", [], 0), ("21000", [], 21000), (21000, [], 21000), ("flexible", [], None), (-5, [], None), (True, [], None),
        ({"a": 1}, [], None), ("9" * 5000, [], None), ("٣", [], None), ("free", [("price", "5001", "7000")], 7000),
        ("free", [("price", "5002", "7000")], 0), ("free", [("price", "5001", "dear")], None),
    ],
)  # fmt: skip
def test_prices(amount: object, tags: list[tuple[str, ...]], price_msat: int | None) -> None:
    (found,) = listings([announced(ALICE, *tags, content={"amount": amount})], [], NOW)
    assert found.price_msat == price_msat


def test_the_price_is_that_of_the_kind_that_was_searched() -> None:
    event = announced(ALICE, ("k", "5002"), ("price", "5001", "1000"), ("price", "5002", "9000"))
    assert listings([event], [], NOW)[0].price_msat == 1000
    assert listings([event], [], NOW, [5002])[0].price_msat == 9000
    assert listings([event], [], NOW, [5002])[0].prices_msat == {5001: 1000, 5002: 9000}


@pytest.mark.parametrize(
    "name",
    ["\x1b[2J\x1b]0;gone\x07evil", "a\nb\r\tc", "\u202egnp.exe", "zero\u200bwidth", "\x9b31m", "x" * 5000, "\u2028", "\ud7ff\ue000"],
)  # fmt: skip
def test_nothing_that_a_terminal_obeys_is_left(name: str) -> None:
    events = [announced(ALICE, ("t", name), content={"name": name, "about": name * 3})]
    (found,) = listings(events, [], NOW)
    for text, most in ((found.name, 60), (found.about, 280), (found.words[0], 60)):
        assert text.isprintable()
        assert len(text) <= most


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", '"x"', "{", '{"name": 7, "about": ["x"]}', '{"a":' * 20_000 + "1" + "}" * 20_000],
)
def test_content_that_is_no_description(content: str) -> None:
    (found,) = listings([announced(ALICE, content=content)], [], NOW)
    assert (found.name, found.about) == ("", "")


def test_what_strangers_owe_a_picture_and_parameters() -> None:
    told = announced(
        ALICE, ("strangers", "pow", "12"), ("strangers", "amount", "9000"), ("strangers", "refused"),
        content={
            "picture": "https://example.com/a.png",
            "nip90Params": {"length": {"required": True, "values": ["short", "long"], "description": "how long"}, "x": None},
        },
    )  # fmt: skip
    (listing,) = listings([told], [], NOW)
    assert (listing.pow_bits, listing.deposit_msat, listing.refuses_strangers) == (12, 9000, True)
    assert listing.picture == "https://example.com/a.png"
    assert listing.params == (Param("length", "how long", ("short", "long"), required=True), Param("x"))


@pytest.mark.parametrize(
    "content",
    [
        {"picture": "javascript:alert(1)"}, {"picture": ["https://a.example"]}, {"image": "https://a b"},
        {"nip90Params": ["length"]}, {"nip90Params": "length"}, {},
    ],
)  # fmt: skip
def test_no_picture_and_no_parameters(content: object) -> None:
    tags = [("strangers",), ("strangers", "pow"), ("strangers", "pow", "many")]
    (listing,) = listings([announced(ALICE, *tags, content=content)], [], NOW)
    assert (listing.picture, listing.params, listing.pow_bits, listing.refuses_strangers) == (
        "",
        (),
        0,
        False,
    )


def test_parameters_are_cut() -> None:
    many = {f"p{number}": {"values": ["v" * 1000] * 60, "description": "d" * 10_000} for number in range(60)}
    (listing,) = listings([announced(ALICE, content={"nip90Params": many})], [], NOW)
    assert len(listing.params) == 50
    assert len(listing.params[0].values) == 50
    assert len(listing.params[0].values[0]) == 60
    assert len(listing.params[0].about) == 280


def test_those_that_do_no_job_and_too_many_kinds() -> None:
    app = event(
        BOB, 31990, ("d", "y"), ("k", "1"), ("k", "30023"), ("k", "5128"), ("k", "٥٠٠١"), ("k", "050001")
    )
    many = event(CAROL, 31990, ("d", "z"), *(("k", str(kind)) for kind in range(5000, 5999)))
    (found,) = listings([app, many], [], NOW)
    assert len(found.kinds) == 50


def test_the_newest_of_each_counts_and_expired_ones_do_not() -> None:
    old, new = (
        announced(ALICE, content={"name": name}, at=at) for name, at in (("old", NOW - 9), ("new", NOW))
    )
    expired = announced(BOB, ("expiration", str(NOW - 1)), at=NOW - 100)
    assert [x.name for x in listings([new, old, expired], [], NOW)] == ["new"]


@pytest.mark.parametrize(
    ("beat", "alive"),
    [
        (event(ALICE, 11998, at=NOW - 900), True), (event(ALICE, 11998, at=NOW - 901), False),
        (event(ALICE, 11998, ("expiration", str(NOW - 1)), at=NOW - 10), False), (event(BOB, 11998), False),
        (event(ALICE, 11998, ("status", "offline")), False), (event(ALICE, 11998, at=NOW + 5000), False),
    ],
)  # fmt: skip
def test_liveness(beat: Event, alive: bool) -> None:
    (found,) = listings([announced(ALICE)], [beat], NOW)
    assert found.alive is alive


def test_answer_times_are_by_the_dates_of_both_sides() -> None:
    asked = [event(CAROL, 5001, ("n", str(n)), at=NOW - 1000) for n in range(3)]
    answers = [event(ALICE, 7000, ("e", asked[0].id), ("status", "processing"), at=NOW - 999)]
    answers += [
        event(ALICE, 6001, ("e", one.id), at=NOW - 1000 + waited)
        for one, waited in zip(asked, (4, 6, 20), strict=True)
    ]
    found = measured(answers, asked, NOW)[ALICE.public_key]
    assert found == Answers(jobs=3, first_seconds=6, result_seconds=6, last_at=NOW - 980)
    assert requests_answered(answers) == tuple(one.id for one in reversed(asked))


def test_requests_that_relays_have_dropped_are_read_from_results() -> None:
    asked = event(CAROL, 5001, ("expiration", str(NOW - 900)), at=NOW - 1000)
    repeats = event(
        ALICE, 6001, ("e", asked.id), ("request", asked.to_json().decode()), content="done", at=NOW - 996
    )
    forged = asked.to_json().decode().replace(str(NOW - 1000), str(NOW - 2000))
    lies = event(BOB, 6001, ("e", asked.id), ("request", forged), at=NOW - 996)
    nonsense = event(BOB, 6001, ("e", asked.id), ("request", "{"), at=NOW - 996)
    repeated = requests_repeated([lies, nonsense, repeats])
    assert repeated == {asked.id: asked}
    assert measured([repeats], repeated.values(), NOW)[ALICE.public_key].result_seconds == 4
    assert requests_repeated([lies, nonsense]) == {}


def test_lies_about_time_measure_nothing() -> None:
    asked = event(CAROL, 5001, at=NOW - 1000)
    of_another_kind = event(CAROL, 1, at=NOW - 1000)
    for lie in (
        event(ALICE, 6001, ("e", asked.id), at=NOW - 1006),  # answered before it was asked
        event(ALICE, 6001, ("e", asked.id), at=NOW + 60),  # answered tomorrow
        event(ALICE, 6001, ("e", of_another_kind.id)),
        event(ALICE, 6001, ("e", "#" * 64)),
        event(ALICE, 6001),
    ):
        assert measured([lie], [asked, of_another_kind], NOW).get(ALICE.public_key, Answers()).jobs == 0
    wrong_result = event(ALICE, 6002, ("e", asked.id))
    assert measured([wrong_result], [asked], NOW)[ALICE.public_key].result_seconds is None
    a_little_early = event(ALICE, 6001, ("e", asked.id), at=NOW - 1003)
    assert measured([a_little_early], [asked], NOW)[ALICE.public_key].result_seconds == 0


def test_only_ids_go_into_further_questions() -> None:
    assert requests_answered([event(ALICE, 6001, ("e", "x")), event(ALICE, 7000, ("e", "A" * 64))]) == ()


def test_live_ones_first_then_cheaper_then_quicker() -> None:
    keys = [SecretKey(bytes([n]) * 32) for n in range(1, 8)]
    amounts = ["9000", "1000", "flexible", "1000", "free", "free", "1000"]
    events = [
        announced(key, content={"amount": a, "name": str(n)})
        for n, (key, a) in enumerate(zip(keys, amounts, strict=True))
    ]
    beats = [event(key, 11998) for key in keys[:4]]
    times = {keys[3].public_key: Answers(3, 1, 1, NOW - 9), keys[6].public_key: Answers(1, 5, 5, NOW - 99)}
    found = ranked([with_answers(x, times) for x in listings(events, beats, NOW)], NOW)
    # 3 is quick, 1 unmeasured, 0 dear, 2 of unknown price; 6 answered lately; 4 and 5 were only announced
    assert [x.name for x in found][:5] == ["3", "1", "0", "2", "6"]
    assert {x.name for x in found[5:]} == {"4", "5"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("5001", True), ("5002", False), ("summarisation", True), ("Summarization", True), ("summaris", True),
        ("translation", False), ("short texts", True), ("long texts", False), ("MY BOT", True), ("ai", True),
        ("text-generation", False), ("", True),
    ],
)  # fmt: skip
def test_what_is_looked_for(text: str, fits: bool) -> None:
    described = {"name": "my bot", "about": "makes texts short"}
    event = announced(ALICE, ("t", "ai"), content=described)
    wanted = Wanted.parse(text)
    assert wanted.fits(listings([event], [], NOW)[0]) is fits


def test_a_number_that_is_no_job() -> None:
    for text in ("1", "6001", "5128", "9" * 30):
        with pytest.raises(BadRequest):
            Wanted.parse(text)
