"""One caller's sats in the books: how many there are, and the postings that move them. Amounts are whole sats."""

from dataclasses import dataclass

from store import Database, Transaction
from tradepost.facade.web.problems import Refusal
from wallet.errors import Action, BooksError
from wallet.ledger import OUTSIDE, Cause, Posting, caller_account, caller_entries, held_account, post
from wallet.queries_books import balance_msat


@dataclass(frozen=True)
class Balance:
    """What a caller may dispose of, and what of theirs is kept for jobs and withdrawals under way."""

    balance_sat: int
    held_sat: int

    @property
    def all_sat(self) -> int:
        """What the post holds for this caller."""
        return self.balance_sat + self.held_sat


class BalanceTooLow(Refusal):
    """The caller has not so many sats here."""

    status = 402
    action = Action.FUND

    def __init__(self, needed_sat: int, balance: Balance) -> None:
        money = told(balance)
        super().__init__(f"{needed_sat} sat are needed, and {money}", money=money)
        self.needed_sat = needed_sat
        self.balance = balance


def told(balance: Balance) -> str:
    """A balance in words."""
    held = f", {balance.held_sat} sat more are kept for what is under way" if balance.held_sat else ""
    return f"{balance.balance_sat} sat are in your balance{held}"


async def balance_of(source: Database | Transaction, caller_id: str) -> Balance:
    """What a caller has here, by two rows of the books."""
    free_msat = -await balance_msat(source, caller_account(caller_id))
    held_msat = -await balance_msat(source, held_account(caller_id))
    return Balance(free_msat // 1000, held_msat // 1000)


async def hold(
    tx: Transaction, caller_id: str, sat: int, *, name: str, now: int, job_id: str | None = None
) -> None:
    """Keep `sat` of a caller's balance for something. Raises `BalanceTooLow`; `tx` must then be undone."""
    balance = await balance_of(tx, caller_id)
    if sat > balance.balance_sat:
        raise BalanceTooLow(sat, balance)
    await move(tx, caller_id, name, Cause.HOLD, now=now, free_sat=-sat, held_sat=sat, job_id=job_id)


async def move(
    tx: Transaction,
    caller_id: str,
    name: str,
    cause: Cause,
    *,
    now: int,
    free_sat: int = 0,
    held_sat: int = 0,
    counter: str = OUTSIDE,
    op_id: str | None = None,
    job_id: str | None = None,
) -> None:
    """Post what changes in a caller's sats, under a name of its own; nothing if nothing does. See `caller_entries`.

    Raises `BooksError` if that name is in the books: `tx`, which writes down what was moved, must then be undone.
    """
    entries = caller_entries(caller_id, free_sat=free_sat, held_sat=held_sat, counter=counter)
    if entries and not await post(tx, Posting(name, cause, entries, now, op_id, job_id)):
        raise BooksError(f"posting {name} is in the books already; nothing was written")
