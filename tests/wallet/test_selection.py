import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.errors import InsufficientFunds, InvalidKeyset, LimitExceeded
from wallet.keysets import Keyset, input_fee
from wallet.proofs import Proof
from wallet.selection import ESCROW_COINS_MAX, escrow_amounts, fee_amounts, select, split_amount

KEYSETS = {f"{ppk}": Keyset(f"{ppk}", "sat", True, ppk, None, {}) for ppk in (0, 100, 999, 1000, 1500)}


def coins(*amounts: int, ppk: int = 0) -> list[Proof]:
    return [
        Proof(amount, str(ppk), f"secret {ppk} {i} {amount}", "02" * 33) for i, amount in enumerate(amounts)
    ]


def amounts(proofs: list[Proof]) -> list[int]:
    return sorted(proof.amount for proof in proofs)


def net(proofs: list[Proof]) -> int:
    return sum(proof.amount for proof in proofs) - input_fee(proofs, KEYSETS)


@given(st.integers(0, 2**63))
def test_splitting_gives_few_powers_of_two(amount):
    parts = split_amount(amount)
    assert sum(parts) == amount
    assert parts == sorted(set(parts))
    assert all(part & (part - 1) == 0 for part in parts)


def sums(parts: list[int]) -> set[int]:
    reached = {0}
    for part in parts:
        reached |= {part + other for other in reached}
    return reached


@given(st.one_of(st.integers(1, 4000), st.integers(1, 2**20)), st.integers(0, 12))
def test_escrowed_coins_can_be_shared_out_in_steps(price, bit):
    wanted = 1 << bit
    parts = escrow_amounts(price, wanted)
    assert sum(parts) == price
    assert parts == sorted(parts)
    assert len(parts) <= ESCROW_COINS_MAX
    assert all(part & (part - 1) == 0 for part in parts)
    if price <= 4000:
        reached = sums(parts)
        step = next(
            (step for step in (1 << n for n in range(13)) if set(range(0, price + 1, step)) <= reached), None
        )
        assert step is not None
        assert step <= max(wanted, 4) or step > price
        assert all(price - amount in reached for amount in reached)


@pytest.mark.parametrize(
    ("price", "step", "parts"),
    [
        (1, 1, [1]),
        (2, 1, [1, 1]),
        (3, 1, [1, 2]),
        (4, 1, [1, 1, 2]),
        (7, 1, [1, 2, 4]),
        (10, 1, [1, 1, 2, 2, 4]),
        (10, 4, [2, 4, 4]),
        (10, 16, [2, 8]),
        (1000, 1, [1, 1, 2, 4, 8, 8, 16, 32, 32, 64, 64, 128, 128, 256, 256]),
        (1000, 128, [8, 32, 64, 128, 256, 512]),
    ],
)
def test_how_escrowed_coins_are_cut(price, step, parts):
    assert escrow_amounts(price, step) == parts


def test_a_step_that_takes_too_many_coins_is_coarsened():
    assert len(escrow_amounts(2046)) == 20
    assert set(range(2047)) == sums(escrow_amounts(2046))
    coarse = escrow_amounts(4094)  # 22 coins to the sat
    assert len(coarse) <= 20
    assert set(range(0, 4095, 2)) <= sums(coarse)
    assert escrow_amounts(2**20 - 1) == split_amount(2**20 - 1)
    with pytest.raises(LimitExceeded):
        escrow_amounts(2**21 - 1)
    for price, step in ((0, 1), (-1, 1), (10, 0), (10, 3), (10, -2)):
        with pytest.raises(ValueError, match="power of two"):
            escrow_amounts(price, step)


@given(st.lists(st.integers(0, 10).map(lambda bit: 1 << bit), min_size=1, max_size=25), st.integers(0, 5000))
def test_the_coins_beside_pay_the_whole_fee_and_no_more(parts, ppk):
    if ppk >= 1000:
        ppk %= 1000
    beside = fee_amounts(parts, ppk)
    fee = -(-(len(parts) + len(beside)) * ppk // 1000)
    assert sum(beside) >= fee
    for less in range(sum(beside)):
        assert less < -(-(len(parts) + len(split_amount(less))) * ppk // 1000)


def test_splitting_below_zero_is_refused():
    assert split_amount(0) == []
    assert split_amount(13) == [1, 4, 8]
    with pytest.raises(ValueError, match="negative"):
        split_amount(-1)


@pytest.mark.parametrize(
    ("have", "amount", "ppk", "chosen"),
    [
        ([1, 2, 4, 8], 0, 0, []),
        ([1, 2, 4, 8], 7, 0, [1, 2, 4]),
        ([1, 2, 4, 8], 8, 0, [8]),
        ([2, 4, 8], 7, 0, [8]),
        ([64, 4, 1], 5, 0, [1, 4]),
        ([64, 32], 5, 0, [32]),
        ([8, 8, 8, 1], 10, 0, [8, 8]),
        ([16, 4, 2, 2, 2], 7, 0, [2, 2, 4]),
        ([8], 8, 100, None),
        ([8, 1], 8, 100, [1, 8]),
        ([8, 16], 8, 100, [16]),
        ([1] * 20, 18, 100, [1] * 20),
        ([1] * 20, 19, 100, None),
        ([1] * 20, 1, 1000, None),
        ([1] * 20 + [4], 3, 1000, [4]),
        ([1] * 500 + [256], 150, 0, [256]),
        ([1] * 500 + [128], 150, 0, [1] * 22 + [128]),
        ([1] * 500 + [16], 30, 0, [1] * 14 + [16]),
        ([1] * 30, 30, 0, [1] * 30),
        ([4, 4, 1], 5, 1500, [4, 4]),
    ],
)
def test_choices(have, amount, ppk, chosen):
    if chosen is None:
        with pytest.raises(InsufficientFunds):
            select(coins(*have, ppk=ppk), amount, KEYSETS)
    else:
        assert amounts(select(coins(*have, ppk=ppk), amount, KEYSETS)) == chosen


wallets = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 20).map(lambda bit: 1 << bit), st.integers(1, 3000)),
        st.sampled_from([0, 100, 999, 1000, 1500]),
    ),
    max_size=40,
).map(lambda pairs: [Proof(a, str(ppk), f"secret {i}", "02" * 33) for i, (a, ppk) in enumerate(pairs)])


@given(wallets, st.integers(0, 2_000_000), st.randoms(use_true_random=False))
def test_a_choice_covers_amount_and_fees_and_wastes_nothing(
    proofs: list[Proof], amount: int, chance: random.Random
):
    useful = [proof for proof in proofs if 1000 * proof.amount > KEYSETS[proof.id].input_fee_ppk]
    if net(useful) < amount:
        with pytest.raises(InsufficientFunds) as caught:
            select(proofs, amount, KEYSETS)
        assert caught.value.available_sat == net(useful)
        return
    chosen = select(proofs, amount, KEYSETS)
    assert net(chosen) >= amount
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(useful)
    for spare in chosen:
        assert net([proof for proof in chosen if proof is not spare]) < amount
    if chosen:  # so what comes back as change is less than the smallest coin spent
        assert net(chosen) - amount < min(proof.amount for proof in chosen)
    shuffled = list(proofs)
    chance.shuffle(shuffled)
    assert set(select(shuffled, amount, KEYSETS)) == set(chosen)


@given(st.integers(1, 2**20))
def test_powers_of_two_pay_exactly_with_the_fewest_coins(amount):
    chosen = select(coins(*(1 << bit for bit in range(21))), amount, KEYSETS)
    assert amounts(chosen) == split_amount(amount)


def test_coins_of_an_unknown_keyset_are_refused():
    with pytest.raises(InvalidKeyset):
        select([Proof(8, "unknown", "secret", "02" * 33)], 1, KEYSETS)


def test_thousands_of_coins_are_chosen_from_quickly():
    proofs = coins(*range(1, 20_001), ppk=100)
    chosen = select(proofs, 123_456, KEYSETS)
    assert net(chosen) >= 123_456
    assert len(chosen) < 10
