"""Keysets are pinned at first sight, and a mint that could lose coins is refused before any are risked."""

import asyncio
from dataclasses import replace

import pytest

from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.errors import InvalidKeyset, MintUnavailable, UnknownMint
from wallet.keyring import CLOCK_FRESH_SECONDS, FRESH_SECONDS, KEYSETS_MAX, Keyring, expires_by
from wallet.keysets import Keyset


@pytest.fixture
async def keyring(tmp_path, clock: ManualClock, mint: MemoryMint):
    async with await Database.open(tmp_path / "keyring.db", load_migrations("wallet")) as db:
        yield Keyring(db, clock=clock, mints=[mint.url], transport=mint.transport)


async def test_asked_once_an_hour_and_once_for_many(
    keyring: Keyring, mint: MemoryMint, clock: ManualClock
) -> None:
    answers = await asyncio.gather(*(keyring.keysets(mint.url) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    await keyring.keysets(mint.url)
    assert mint.asked["/v1/keysets"] == 1
    await clock.advance(FRESH_SECONDS + 1)
    await keyring.keysets(mint.url)
    assert mint.asked["/v1/keysets"] == 2
    assert mint.asked[f"/v1/keys/{next(iter(mint.keysets))}"] == 1


async def test_pinned_keysets_survive_and_need_no_mint(keyring: Keyring, mint: MemoryMint, clock) -> None:
    known = await keyring.keysets(mint.url)
    mint.down = True
    again = Keyring(keyring._db, clock=clock, mints=[mint.url], transport=mint.transport)
    assert await again.pinned(mint.url) == known
    with pytest.raises(MintUnavailable):
        await again.keysets(mint.url)


async def test_the_mint_s_clock_is_looked_at_now_and_then_and_one_lost_answer_is_no_doubt(
    keyring: Keyring, mint: MemoryMint, clock: ManualClock
) -> None:
    mint.clock = ManualClock(clock.now() + 90)
    assert [await keyring.clock_offset(mint.url) for _ in range(3)] == [90, 90, 90]
    assert mint.asked["/v1/info"] == 1
    await clock.advance(CLOCK_FRESH_SECONDS)
    assert await keyring.clock_offset(mint.url) == 90 - CLOCK_FRESH_SECONDS  # the mint's has stood still
    mint.down = True
    await clock.advance(CLOCK_FRESH_SECONDS)
    assert await keyring.clock_offset(mint.url) == 90 - CLOCK_FRESH_SECONDS
    await clock.advance(FRESH_SECONDS)
    with pytest.raises(MintUnavailable):
        await keyring.clock_offset(mint.url)


async def test_a_rotation_is_seen(keyring: Keyring, mint: MemoryMint) -> None:
    old = await keyring.keysets(mint.url)
    new_id = mint.rotate_keyset(50)
    new = await keyring.refresh(mint.url)
    assert {keyset_id: k.active for keyset_id, k in new.items()} == {next(iter(old)): False, new_id: True}
    assert (await keyring.active(mint.url)).id == new_id


async def test_a_keyset_that_is_not_listed_any_more_is_retired(keyring: Keyring, mint: MemoryMint) -> None:
    (old_id,) = await keyring.keysets(mint.url)
    mint.rotate_keyset()
    hidden = mint.keysets.pop(old_id)
    assert not (await keyring.refresh(mint.url))[old_id].active
    assert (await keyring.refresh(mint.url))[old_id].keys == hidden.keys


async def test_a_mint_that_changes_what_its_id_vouches_for(keyring: Keyring, mint: MemoryMint) -> None:
    (keyset_id,) = await keyring.keysets(mint.url)
    mint.keysets[keyset_id] = replace(mint.keysets[keyset_id], input_fee_ppk=900)
    with pytest.raises(InvalidKeyset):
        await keyring.refresh(mint.url)


async def test_keys_that_do_not_fit_their_id(keyring: Keyring, mint: MemoryMint) -> None:
    (keyset_id,) = mint.keysets
    keys = dict(mint.keysets[keyset_id].keys)
    keys[1], keys[2] = keys[2], keys[1]
    mint.keysets[keyset_id] = replace(mint.keysets[keyset_id], keys=keys)
    with pytest.raises(InvalidKeyset):
        await keyring.keysets(mint.url)


@pytest.mark.parametrize("nut", [7, 9, 10, 11, 12])
async def test_a_mint_without_a_needed_nut_is_refused(keyring: Keyring, mint: MemoryMint, nut: int) -> None:
    mint.nuts[str(nut)] = {"supported": False}
    with pytest.raises(UnknownMint, match="cannot"):
        await keyring.keysets(mint.url)
    del mint.nuts[str(nut)]
    with pytest.raises(UnknownMint, match="cannot"):
        await keyring.keysets(mint.url)


async def test_foreign_units_and_odd_ids_are_passed_over(keyring: Keyring, mint: MemoryMint) -> None:
    (good_id,) = mint.keysets
    good = mint.keysets[good_id]
    mint.keysets["dollars"] = replace(good, id="01" + "22" * 32, unit="usd")
    mint.keysets["base64"] = replace(good, id="I2yN+iRYfkzT")
    assert list(await keyring.keysets(mint.url)) == [good_id]


async def test_too_many_keysets(keyring: Keyring, mint: MemoryMint) -> None:
    good = next(iter(mint.keysets.values()))
    mint.keysets = {str(n): good for n in range(KEYSETS_MAX + 1)}
    with pytest.raises(MintUnavailable, match="more than"):
        await keyring.keysets(mint.url)


async def test_the_cheapest_active_keyset_is_taken(keyring: Keyring, mint: MemoryMint) -> None:
    dear = mint.rotate_keyset(900)
    cheap = mint.rotate_keyset(0)
    mint.keysets[dear] = replace(mint.keysets[dear], active=True)
    await keyring.keysets(mint.url)
    assert (await keyring.active(mint.url)).id == cheap


async def test_no_active_keyset(keyring: Keyring, mint: MemoryMint) -> None:
    mint.keysets = {k.id: replace(k, active=False) for k in mint.keysets.values()}
    await keyring.keysets(mint.url)
    with pytest.raises(MintUnavailable, match="no active"):
        await keyring.active(mint.url)


def test_trusted_and_configuration(clock: ManualClock, mint: MemoryMint) -> None:
    keyring = Keyring(
        None, clock=clock, mints=["https://A.test/", "https://a.test"], transport=mint.transport
    )
    assert keyring.mints == ("https://a.test",)
    assert keyring.trusted("https://a.test//") == "https://a.test"
    with pytest.raises(UnknownMint):
        keyring.trusted("https://b.test")
    with pytest.raises(UnknownMint):
        Keyring(None, clock=clock, mints=["nonsense"], transport=mint.transport)


def test_expiry() -> None:
    keyset = Keyset("00", "sat", True, 0, None, {})
    assert not expires_by(keyset, 10**12)
    assert not expires_by(replace(keyset, final_expiry=0), 10**12)
    assert expires_by(replace(keyset, final_expiry=50), 50)
    assert not expires_by(replace(keyset, final_expiry=50), 49)
