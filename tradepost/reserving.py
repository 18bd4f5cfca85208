"""What has to be there for a job of some price: the fees of the mints come on top."""

from typing import Final

from wallet import Wallet

COINS_MAX: Final = 20  # that a payment consists of


async def redeem_fee_sat(wallet: Wallet) -> int:
    """What redeeming a token of an amount not known yet takes, at most. Raises `MintUnavailable`."""
    return await wallet.highest_fee(COINS_MAX)


async def with_fees(wallet: Wallet, price_sat: int) -> int:
    """The most that a job of that price takes. Raises `MintUnavailable`.

    Locking its coins costs the mint's fee for ours, and the agent's fee of redeeming them is sent along.
    """
    return price_sat + 2 * await wallet.highest_fee(COINS_MAX)
