"""Verification at the door."""

import msgspec

from relay_bridge.door import Door, RecentIds


async def test_it_tells_good_from_bad_and_remembers_only_the_good(make):
    door = Door()
    good, other = make(), make()
    altered = msgspec.structs.replace(good, content="altered")
    resigned = msgspec.structs.replace(good, sig=other.sig)
    no_point = msgspec.structs.replace(good, pubkey="ff" * 32)
    surrogate = msgspec.structs.replace(good, content="\ud800")
    for _ in range(2):
        verdicts = await door.check([altered, resigned, good, no_point, surrogate, other])
        assert verdicts == [False, False, True, False, False, True]
    assert await door.check([]) == []
    door.close()


def test_memory_is_bounded_and_forgets_what_was_not_met_for_long():
    recent = RecentIds(200)
    recent.add("met again", "value")
    for number in range(1000):
        recent.add(str(number))
        if number % 50 == 0:
            assert recent.get("met again") == "value"
    assert recent.get("999") == ""
    assert recent.get("700") is None
    assert recent.get("never") is None
    assert len(recent._young) + len(recent._old) <= 201


async def test_a_long_list_is_shared_out_and_comes_back_in_order(make):
    door = Door()
    events = [make(content=str(number)) for number in range(100)]
    bad = {3, 50, 99}
    asked = [
        msgspec.structs.replace(event, content="forged") if number in bad else event
        for number, event in enumerate(events)
    ]
    for _ in range(2):
        assert await door.check(asked) == [number not in bad for number in range(100)]
    door.close()
