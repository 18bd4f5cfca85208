"""Which coins to spend, and into which coins to split an amount. Pure arithmetic on amounts."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Final, TypeVar

from wallet.errors import InsufficientFunds, InvalidKeyset, LimitExceeded
from wallet.keysets import Keyset
from wallet.proofs import Coin

ESCROW_COINS_MAX: Final = 20
INPUTS_WANTED: Final = 20  # beyond that, rather break a large coin than spend dust: mints limit their inputs

_C = TypeVar("_C", bound=Coin)


def split_amount(amount: int) -> list[int]:
    """The powers of two that sum to `amount`, ascending; [] for 0. Raises `ValueError` below 0."""
    if amount < 0:
        raise ValueError("an amount is not negative")
    return [1 << bit for bit in range(amount.bit_length()) if amount >> bit & 1]


def escrow_amounts(price_sat: int, split_step_sat: int = 1) -> list[int]:
    """At most 20 powers of two, ascending, that sum to `price_sat` and can be shared out coin by coin.

    Some of them sum to every multiple of the step up to the price, and so what is left does too. The step is
    `split_step_sat`, a power of two, or the next coarser one with which so few coins do. Raises `LimitExceeded`
    for a price whose plainest sum is longer (above a million sat, with many ones in binary), `ValueError` for a
    price below 1 or a step that is no power of two.
    """
    if price_sat < 1 or split_step_sat < 1 or split_step_sat & (split_step_sat - 1):
        raise ValueError("a price is above zero, and a step is a power of two")
    step = min(split_step_sat, 1 << price_sat.bit_length() - 1)
    while step <= price_sat:
        units, below = divmod(price_sat, step)
        small = (units + 1).bit_length() - 1  # as many of 1, 2, 4, … as fit; no coin of the rest is larger
        rest = split_amount(units - (1 << small) + 1)
        coins = [step * unit for unit in (*(1 << bit for bit in range(small)), *rest)]
        coins += split_amount(below)
        if len(coins) <= ESCROW_COINS_MAX:
            return sorted(coins)
        step *= 2
    raise LimitExceeded(f"{price_sat} sat take more than {ESCROW_COINS_MAX} coins; agree on a rounder price")


def fee_amounts(amounts: Sequence[int], input_fee_ppk: int) -> list[int]:
    """The coins to send beside these so that whoever swaps all of them at once has the sum of `amounts` (NUT-02)."""
    for fee in count():
        coins = split_amount(fee)
        if fee >= -(-(len(amounts) + len(coins)) * input_fee_ppk // 1000):
            return coins
    raise AssertionError("unreachable: some fee suffices")


def select(proofs: Iterable[_C], amount: int, keysets: Mapping[str, Keyset]) -> list[_C]:
    """Coins whose sum, less the input fee of exactly these coins, is at least `amount`; few and close to it.

    The same coins in any order give the same choice, and no chosen coin could be left out. Coins that cost
    more than they are worth are never chosen. Raises `InsufficientFunds`, and `InvalidKeyset` for a coin of
    an unknown keyset.
    """
    # In thousandths each coin has a net worth of its own, and the sum of these reaches the target exactly
    # when the sum of amounts less the fee, rounded up once, reaches `amount`: no rounding to chase while
    # choosing.
    target = 1000 * amount
    coins = sorted(
        ((_net_ppk(proof, keysets), proof) for proof in proofs),
        key=lambda coin: (-coin[0], coin[1].id, coin[1].secret),
    )
    chosen: list[tuple[int, _C]] = []
    too_large: tuple[int, _C] | None = None
    missing = target
    for coin in coins:
        if coin[0] > missing:
            too_large = coin  # coins descend, so the last one kept here is the smallest that covers the rest
        elif coin[0] > 0 and (too_large is None or len(chosen) < INPUTS_WANTED):
            chosen.append(coin)
            missing -= coin[0]
    if missing > 0:
        if too_large is None:
            raise InsufficientFunds(needed_sat=amount, available_sat=(target - missing) // 1000)
        chosen.append(too_large)
        missing -= too_large[0]
    return [proof for _, proof in _without_needless(chosen, -missing)]


def _without_needless(chosen: list[tuple[int, _C]], surplus: int) -> list[tuple[int, _C]]:
    """Drop, smallest first, what the surplus can spare."""
    kept = []
    for coin in sorted(chosen, key=lambda coin: coin[0]):
        if coin[0] <= surplus:
            surplus -= coin[0]
        else:
            kept.append(coin)
    return kept


def _net_ppk(proof: Coin, keysets: Mapping[str, Keyset]) -> int:
    try:
        return 1000 * proof.amount - keysets[proof.id].input_fee_ppk
    except KeyError:
        raise InvalidKeyset(f"keyset {proof.id} is not known at this mint") from None


def subset_of(amounts: Sequence[int], total: int) -> list[int] | None:
    """The positions of coins that add up to `total`, None if none do. Amounts are powers of two, as coins' are."""
    chosen = []
    for number in sorted(range(len(amounts)), key=lambda number: -amounts[number]):
        if amounts[number] <= total:
            total -= amounts[number]
            chosen.append(number)
    return None if total else chosen
