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


def test_memory_is_bounded_and_forgets_the_longest_unmet():
    recent = RecentIds(2)
    recent.add("a")
    recent.add("b")
    assert "a" in recent
    recent.add("c")
    assert "b" not in recent
    assert "a" in recent
