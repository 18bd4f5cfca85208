"""Keys of a log: what each signed for, who wins where two lead on, and that nothing forged counts."""

import random
from itertools import permutations

import msgspec
import pytest

from identity import Event, InvalidReceipt, SecretKey, make_template, merkle, parse_event, sign_event
from identity.receipts import KeyLeaf, ReviewLeaf, write_leaf
from identity.roots import APP_DATA, Head
from identity.rotation import (
    FUTURE_SECONDS_MAX,
    KEYS_MAX,
    OVERLAP_SECONDS,
    SHOWN_MAX,
    Chain,
    Passed,
    Rotation,
    commitment,
    parse_rotation,
    read_chain,
)

NOW = 1_700_000_000
A, B, C, D = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3, 4))
THIEF, OTHER = SecretKey(bytes([66]) * 32), SecretKey(bytes([67]) * 32)
FILLER = ReviewLeaf(review="ab" * 32, request="cd" * 32, at=NOW)


def head_of(leaves: list[str]) -> Head:
    frontier, _ = merkle.Frontier().extend([merkle.leaf_hash(leaf.encode()) for leaf in leaves])
    return Head(frontier.size, frontier.root.hex())


def begun(first: SecretKey = A, following: SecretKey = B, *, length: int = 3) -> list[str]:
    """The leaves of a log that is committed to a key."""
    leaf = KeyLeaf(key=first.public_key, next=commitment(following.public_key), at=NOW - 1000)
    fillers = [write_leaf(msgspec.structs.replace(FILLER, at=NOW + number)) for number in range(1, length)]
    return [write_leaf(leaf), *fillers]


def rotation(
    leaves: list[str], old: SecretKey = A, new: SecretKey = B, following: SecretKey = C,
    *, at: int = NOW, log: SecretKey = A, by_both: bool = True,
) -> Rotation:  # fmt: skip
    """Signed by whom it needs, and read again."""
    unsigned = Rotation(
        log.public_key, old.public_key, new.public_key, head_of(leaves), commitment(following.public_key), at, by_both
    )  # fmt: skip
    event = sign_event(unsigned.to_template(), new)
    return parse_rotation(sign_event(unsigned.countersigned(event), old) if by_both else event)


def event_of(found: Rotation) -> Event:
    assert found.event is not None
    return found.event


def extended(leaves: list[str], found: Rotation) -> list[str]:
    """The log with the leaf of a rotation."""
    leaf = KeyLeaf(key=found.new, next=found.next, at=found.at, rotation=event_of(found).to_json().decode())
    return [*leaves, write_leaf(leaf)]


def chain(leaves: list[str], *rotations: Rotation, now: int = NOW, log: SecretKey = A) -> Chain:
    return read_chain(log.public_key, leaves, map(event_of, rotations), now)


def keys(*found: SecretKey) -> tuple[str, ...]:
    return tuple(key.public_key for key in found)


# One event -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_both", [True, False])
def test_a_rotation_is_read_as_it_was_made(by_both: bool) -> None:
    leaves = begun()
    found = rotation(leaves, by_both=by_both)
    assert (found.log, found.old, found.new) == keys(A, A, B)
    assert (found.head, found.next, found.at) == (head_of(leaves), commitment(C.public_key), NOW)
    assert found.until == NOW + (OVERLAP_SECONDS if by_both else 0)
    assert event_of(found).pubkey == (A if by_both else B).public_key


def forged(
    event: Event, *, by: SecretKey = A, kind: int = APP_DATA, content: str | None = None, at: int = NOW,
    **tags: str | None,
) -> Event:  # fmt: skip
    """Another event than that one, rightly signed; a tag that is None is left out, `from_` stands for `from`."""
    values = {name.rstrip("_"): value for name, value in tags.items()}
    changed = [(tag[0], values.get(tag[0], tag[1])) for tag in event.tags]
    kept = [(name, value) for name, value in changed if value is not None]
    text = event.content if content is None else content
    return sign_event(make_template(kind, content=text, tags=kept, created_at=at), by)


def consent_of(event: Event) -> Event:
    return parse_event(event.content)


HANDED = event_of(rotation(begun()))
RECOVERED = event_of(rotation(begun(), by_both=False))


@pytest.mark.parametrize(
    "event",
    [
        forged(HANDED, kind=1),
        forged(HANDED, t="tradepost:root"),
        forged(HANDED, overlap="7200"),
        forged(HANDED, overlap=None),
        forged(HANDED, size="0"),
        forged(HANDED, size="03"),
        forged(HANDED, size=str(2**32)),
        forged(HANDED, size="4"),  # what the new key did not say
        forged(HANDED, root="00" * 32),
        forged(HANDED, next=commitment(D.public_key)),
        forged(HANDED, log=OTHER.public_key),
        forged(HANDED, to=OTHER.public_key),
        forged(HANDED, to=A.public_key),
        forged(HANDED, to="B" * 64),
        forged(HANDED, from_=OTHER.public_key),
        forged(HANDED, at=NOW - 1),
        forged(HANDED, by=OTHER),
        forged(HANDED, by=B),
        forged(HANDED, content=""),
        forged(HANDED, content="{"),
        forged(HANDED, content=HANDED.content + " " * 4000),
        forged(HANDED, content=forged(consent_of(HANDED), by=OTHER).to_json().decode()),
        forged(HANDED, content=RECOVERED.to_json().decode()),  # signed for something else
        consent_of(HANDED),  # a part of it that the old key did not sign, as if it were the whole
        forged(RECOVERED, by=A, overlap="0"),  # only the new key may say that the old one is lost
        forged(RECOVERED, by=OTHER),
        msgspec.structs.replace(HANDED, created_at=NOW + 1),
        msgspec.structs.replace(HANDED, sig=RECOVERED.sig),
        msgspec.structs.replace(RECOVERED, sig=HANDED.sig),
    ],
)
def test_no_forged_rotation_is_read(event: Event) -> None:
    with pytest.raises(InvalidReceipt):
        parse_rotation(event)
    assert read_chain(A.public_key, begun(), [event], NOW).keys == keys(A)


def test_what_both_keys_say_may_be_nonsense_too() -> None:
    with pytest.raises(InvalidReceipt, match="from one key to another"):
        rotation(begun(), A, A)
    with pytest.raises(InvalidReceipt, match="its first leaf is there before"):
        rotation([])


def test_a_consent_with_a_wrong_signature_is_no_consent() -> None:
    broken = msgspec.structs.replace(consent_of(HANDED), sig="00" * 64)
    with pytest.raises(InvalidReceipt, match="not signed as it says"):
        parse_rotation(forged(HANDED, content=broken.to_json().decode()))


# The chain -------------------------------------------------------------------------------------------------------


def test_a_log_that_was_never_handed_on_has_one_key() -> None:
    for leaves in ([], begun()):
        found = chain(leaves)
        assert (found.keys, found.current) == (keys(A), A.public_key)
        assert found.counts(A.public_key, 0)
        assert found.may_sign(A.public_key, 1, NOW)
        assert not found.counts(B.public_key, NOW)


@pytest.mark.parametrize("is_in_log", [True, False])
def test_a_key_that_is_handed_on_counts_for_an_hour_more(is_in_log: bool) -> None:
    leaves = begun()
    handed = rotation(leaves)
    found = chain(extended(leaves, handed) if is_in_log else leaves, *(() if is_in_log else (handed,)))
    assert found.keys == keys(A, B)
    first, second = found.tenures
    assert (first.how, second.how, second.committed, first.lost) == (
        Passed.FIRST,
        Passed.HANDED_ON,
        True,
        False,
    )
    assert (first.until, second.since, second.rotation) == (NOW + 3600, NOW, event_of(handed))
    for at, old, new in (
        (NOW - 1, True, False),
        (NOW, True, True),
        (NOW + 3600, True, True),
        (NOW + 3601, False, True),
    ):
        assert found.counts(A.public_key, at) is old
        assert found.counts(B.public_key, at) is new
    assert A.public_key in found
    assert B.public_key in found
    assert C.public_key not in found


def test_roots_are_the_old_keys_up_to_the_rotation_and_then_the_new_ones() -> None:
    leaves = begun(length=3)
    found = chain(leaves, rotation(leaves))
    for size in (1, 3):
        assert found.may_sign(A.public_key, size, NOW - 5)
        assert not found.may_sign(B.public_key, size, NOW)
    for at in (NOW - 5, NOW + 5):  # backdated or within the overlap: the old one signs no further
        assert not found.may_sign(A.public_key, 4, at)
    assert found.may_sign(B.public_key, 4, NOW)
    assert not found.may_sign(B.public_key, 4, NOW - 1)
    assert not found.may_sign(OTHER.public_key, 2, NOW)


def test_a_lost_key_is_told_apart_and_ends_at_once() -> None:
    leaves = begun()
    found = chain(leaves, rotation(leaves, by_both=False))
    assert found.keys == keys(A, B)
    assert found.tenures[0].lost
    assert found.tenures[1].how is Passed.RECOVERED
    assert found.counts(A.public_key, NOW)
    assert not found.counts(A.public_key, NOW + 1)


def test_a_thief_of_the_old_key_cannot_recover_it() -> None:
    leaves = begun()
    claim = rotation(leaves, new=THIEF, by_both=False)
    found = chain(leaves, claim)
    assert found.keys == keys(A)
    assert found.claims == (event_of(claim),)
    assert not found.contested


def test_a_new_key_counts_for_nothing_while_the_commitment_is_not_known() -> None:
    leaves = begun()
    alone = rotation(leaves, by_both=False)
    assert chain([], alone).keys == keys(A)
    assert chain([], alone).claims == (event_of(alone),)
    assert chain([], rotation(leaves)).keys == keys(A, B)


def test_a_log_may_be_handed_on_to_a_key_that_it_did_not_name_and_that_shows() -> None:
    leaves = begun()
    found = chain(leaves, rotation(leaves, new=OTHER))
    assert found.keys == keys(A, OTHER)
    assert not found.tenures[1].committed


@pytest.mark.parametrize("by_both", [True, False])
def test_the_key_that_was_named_wins_over_whatever_the_thief_of_the_old_one_signs(by_both: bool) -> None:
    leaves = begun()
    stolen = rotation(leaves, new=THIEF, at=NOW - 500)  # backdated, and in the log that the thief shows
    owned = rotation(leaves, by_both=by_both)
    for shown in (leaves, extended(leaves, stolen), extended(leaves, owned)):
        found = chain(shown, owned, stolen)
        assert found.keys == keys(A, B)
        assert found.contested == (event_of(stolen),)
        assert not found.may_sign(THIEF.public_key, 4, NOW)


def test_of_two_keys_that_were_not_named_the_log_tells_which() -> None:
    leaves = begun()
    first, second = rotation(leaves, new=OTHER), rotation(leaves, new=THIEF)
    undecided = chain(leaves, first, second)
    assert undecided.keys == keys(A)
    assert set(undecided.contested) == {event_of(first), event_of(second)}
    decided = chain(extended(leaves, first), first, second)
    assert decided.keys == keys(A, OTHER)
    assert decided.contested == (event_of(second),)


def three_keys() -> tuple[list[str], Rotation, Rotation]:
    leaves = begun()
    first = rotation(leaves)
    longer = extended(leaves, first)
    second = rotation(longer, B, C, D, at=NOW + 10, by_both=False)
    return extended(longer, second), first, second


def test_a_chain_of_several_keys_is_the_same_in_whatever_order_it_is_heard() -> None:
    leaves, first, second = three_keys()
    stolen = rotation(begun(), A, THIEF)
    expected = chain(leaves, first, second, stolen, now=NOW + 10)
    assert expected.keys == keys(A, B, C)
    assert [tenure.how for tenure in expected.tenures] == [Passed.FIRST, Passed.HANDED_ON, Passed.RECOVERED]
    assert [(tenure.above, tenure.size_max) for tenure in expected.tenures] == [(0, 3), (3, 4), (4, None)]
    for events in permutations([first, second, stolen]):
        assert chain(leaves, *events, now=NOW + 10) == expected
    for events in permutations(
        [first, second]
    ):  # the rotations commit to keys too: no more than the first leaf is needed
        assert chain(begun(), *events, now=NOW + 10).keys == expected.keys


def test_equal_timestamps_do_not_confuse_the_order() -> None:
    leaves = begun()
    first = rotation(leaves)
    second = rotation(extended(leaves, first), B, C, D, at=NOW)
    for events in permutations([first, second]):
        assert chain(leaves, *events).keys == keys(A, B, C)


def test_a_key_cannot_be_handed_on_before_it_had_the_log() -> None:
    leaves = begun()
    first = rotation(leaves)
    early = rotation(extended(leaves, first), B, C, D, at=NOW - 1)
    shorter = rotation(leaves, B, C, D, at=NOW + 1)  # of a log without the leaf of B
    assert chain(leaves, first, early).keys == keys(A, B)
    assert chain(leaves, first, shorter, now=NOW + 1).keys == keys(A, B)


def test_no_key_has_the_log_twice() -> None:
    leaves = begun()
    first = rotation(leaves)
    back = rotation(extended(leaves, first), B, A, C, at=NOW + 1)
    assert chain(leaves, first, back, now=NOW + 1).keys == keys(A, B)


def test_a_rotation_of_the_future_is_not_in_force() -> None:
    leaves = begun()
    future = rotation(leaves, at=NOW + FUTURE_SECONDS_MAX + 1)
    assert chain(leaves, future).keys == keys(A)
    assert chain(leaves, future, now=NOW + 1).keys == keys(A, B)
    assert chain(extended(leaves, future)).keys == keys(A)


def test_rotations_of_another_log_do_not_count() -> None:
    leaves = begun()
    assert chain(leaves, rotation(leaves, log=OTHER)).keys == keys(A)


def test_of_several_rotations_to_one_key_the_one_in_the_log_counts_then_the_first_of_both_keys() -> None:
    leaves = begun()
    early, late = rotation(leaves, at=NOW - 9), rotation(leaves, at=NOW)
    alone = rotation(leaves, at=NOW - 20, by_both=False)
    assert chain(leaves, late, alone, early).tenures[1].since == NOW - 9
    assert chain(extended(leaves, late), alone, early).tenures[1].since == NOW
    assert not chain(leaves, late, alone, early).contested


# What the log says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leaves",
    [
        [write_leaf(FILLER)],
        begun(B, C),  # the log of another key
        [write_leaf(FILLER), *begun()],
        ["{}", *begun()],
        [write_leaf(KeyLeaf(key=A.public_key, next="00" * 32, at=NOW, rotation="{}"))],
        [*begun(), "no leaf"],
        [*begun(), write_leaf(KeyLeaf(key=B.public_key, next="00" * 32, at=NOW))],
        [*begun(), write_leaf(KeyLeaf(key=B.public_key, next="00" * 32, at=NOW, rotation="{}"))],
        [*begun(), extended(begun(length=2), rotation(begun(length=2)))[-1]],  # of a shorter log
        [*begun(B, C), extended(begun(), rotation(begun()))[-1]],
    ],
)
def test_a_log_that_contradicts_itself_has_no_chain(leaves: list[str]) -> None:
    with pytest.raises(InvalidReceipt):
        chain(leaves)


@pytest.mark.parametrize("wrong", ["key", "next", "log"])
def test_a_leaf_says_what_the_rotation_in_it_says(wrong: str) -> None:
    leaves = begun()
    found = rotation(leaves, log=OTHER if wrong == "log" else A)
    told = {"key": found.new, "next": found.next} | {wrong: "12" * 32}
    leaf = KeyLeaf(key=told["key"], next=told["next"], at=NOW, rotation=event_of(found).to_json().decode())
    with pytest.raises(InvalidReceipt, match="something else"):
        chain([*leaves, write_leaf(leaf)])


def test_what_does_not_count_is_shown_but_not_without_end() -> None:
    leaves = begun()
    claims = [rotation(leaves, new=SecretKey.generate(), by_both=False) for _ in range(SHOWN_MAX + 3)]
    assert len(chain(leaves, *claims).claims) == SHOWN_MAX


def test_a_chain_ends_somewhere() -> None:
    many = [SecretKey((1000 + number).to_bytes(32)) for number in range(KEYS_MAX + 3)]
    leaves, events = begun(many[0], many[1], length=1), []
    for old, new, following in zip(many, many[1:], many[2:], strict=False):
        events.append(rotation(leaves, old, new, following, log=many[0]))
        leaves = extended(leaves, events[-1])
    random.Random(1).shuffle(events)
    assert len(chain(leaves, *events, log=many[0]).keys) == KEYS_MAX
