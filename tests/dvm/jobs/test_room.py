"""Room that neighbours share: what one key, and all strangers together, leave to others."""

import pytest

from dvm.jobs.room import Neighbour, Room, Standing


def fill(room: Room, standing: Standing, *, first: int = 0, keys: int = 1000) -> list[int]:
    """What each of many keys gets, one after the other, that takes all it can."""
    got = []
    for number in range(first, first + keys):
        who, before = Neighbour(str(number), standing), sum(got)
        while room.has(who):
            room.take(who)
            before += 1
        got.append(before - sum(got))
    return got


@pytest.mark.parametrize(("places", "most"), [(1, 1), (2, 1), (10, 5), (100, 50), (1000, 500)])
def test_one_customer_has_no_more_than_there_is_room_left(places: int, most: int) -> None:
    assert fill(Room(places), Standing.CUSTOMER, keys=1) == [most]


@pytest.mark.parametrize("share", [1, 3])
@pytest.mark.parametrize(("places", "most"), [(1, 1), (2, 1), (4, 3), (10, 7), (100, 75), (1000, 750)])
def test_all_strangers_leave_a_quarter(places: int, most: int, share: int) -> None:
    room = Room(places, share=share)
    assert sum(fill(room, Standing.STRANGER)) == most
    assert sum(fill(room, Standing.CUSTOMER, first=2000)) == places - most


def test_one_stranger_leaves_room_for_another() -> None:
    assert fill(Room(100), Standing.STRANGER, keys=4) == [37, 19, 9, 5]


@pytest.mark.parametrize("held", range(0, 64, 7))
def test_strangers_leave_a_quarter_of_what_customers_leave(held: int) -> None:
    room = Room(64, share=3)
    for number in range(held):
        room.take(Neighbour(f"customer {number}", Standing.CUSTOMER))
    assert sum(fill(room, Standing.STRANGER)) == max((64 - held) * 3 // 4, 1)


def test_what_is_given_back_can_be_had_again() -> None:
    room = Room(4)
    for _ in range(3):
        assert sum(fill(room, Standing.STRANGER, keys=5)) == 3
        for number, count in enumerate((1, 1, 1)):
            for _ in range(count):
                room.release(Neighbour(str(number), Standing.STRANGER))


def test_what_was_begun_before_is_counted_even_beyond_the_room() -> None:
    room, who = Room(2), Neighbour("a", Standing.STRANGER)
    for _ in range(5):
        room.take(who)
    assert not room.has(Neighbour("b", Standing.CUSTOMER))
    for _ in range(4):
        room.release(who)
    assert room.has(Neighbour("b", Standing.CUSTOMER))
    assert not room.has(Neighbour("b", Standing.STRANGER))


def test_who_holds_one_for_a_while_is_counted_meanwhile() -> None:
    room, who = Room(1), Neighbour("a", Standing.PAYS)
    with room.held(who):
        assert not room.has(who)
    assert room.has(who)
