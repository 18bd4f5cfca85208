"""The seam to Lightning: what a rail is asked, what it answers, and what it says beforehand that it cannot do.

A rail moves money and remembers nothing: `wallet.rails.lightning` writes down before and after. Hold invoices will be
three more methods (make, settle, cancel) beside `make_invoice`, a field of `RailLimits`, and an answer of `look`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from wallet.queries_rails import Payment


@dataclass(frozen=True)
class RailLimits:
    """What a rail can do just now: data, so that it is said before money moves. Amounts in msat, of one invoice."""

    makes: bool = True
    pays: bool = True
    min_msat: int = 1
    max_msat: int | None = None
    sub_sat: bool = True  # invoices over amounts that are no whole sats; any amount can be paid
    description_hash: bool = True  # invoices that commit to a text, as LNURL-pay wants them (LUD-06)
    fee_limit: bool = True  # payments that cost no more than was said
    pays_itself: bool = False  # what it makes is paid at once, by nobody: its Lightning is faked

    def obstacle_to_make(self, wish: "Wish") -> str:
        """Why this rail makes no such invoice, in words; empty if it does."""
        amount_msat = wish.amount_msat
        if not self.makes:
            return "it makes no invoices"
        if wish.beside_coins and self.pays_itself:
            return "it pays its own invoices, and would pay this one beside the coins"
        if wish.description_hash and not self.description_hash:
            return "its invoices cannot carry a description hash"
        if amount_msat % 1000 and not self.sub_sat:
            return f"it counts in whole sats, and {amount_msat} msat are none"
        if amount_msat < self.min_msat:
            return f"{amount_msat} msat are less than it handles ({self.min_msat} msat)"
        if self.max_msat is not None and amount_msat > self.max_msat:
            return f"{amount_msat} msat are more than it handles ({self.max_msat} msat)"
        return ""

    def obstacle_to_pay(self, fee_max_msat: int | None) -> str:
        """Why this rail makes no such payment, in words; empty if it does."""
        if not self.pays:
            return "it pays no invoices"
        if fee_max_msat is not None and not self.fee_limit:
            return "it cannot promise to stay below a limit of fees"
        return ""


@dataclass(frozen=True)
class Wish:
    """An invoice that somebody is to pay us. A rail whose invoices have no words leaves the description out.

    `description_hash` is 32 bytes in hex and must be in the invoice. `job_id` is what it is booked for. `beside_coins`:
    whoever is shown it may pay in ecash instead.
    """

    amount_msat: int
    description: str = ""
    description_hash: str | None = None
    expiry_seconds: int = 3600
    job_id: str | None = None
    beside_coins: bool = False


@dataclass(frozen=True)
class Made:
    """An invoice as a rail made it, and what the rail calls it."""

    bolt11: str
    handle: str


@dataclass(frozen=True)
class Seen:
    """Where an invoice stands. Held or in flight is not settled. Who pays may pay more than was asked for."""

    settled: bool
    received_msat: int = 0
    preimage: str | None = field(default=None, repr=False)


class Verdict(StrEnum):
    """What a rail knows of a payment. `unknown` stays so until it says otherwise."""

    PAID = "paid"
    FAILED = "failed"  # certainly not made, and it will not be
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sent:
    """What became of a payment; `error` says in words why it is not paid."""

    verdict: Verdict
    fee_msat: int = 0
    preimage: str | None = field(default=None, repr=False)
    error: str = ""


class Rail(Protocol):
    """One way to Lightning, opened and closed by whoever made it. Safe for concurrent callers.

    Every method may raise `RailUnavailable`, `RailRefused`, `MintError` or `MintUnavailable` unless it says otherwise.
    """

    @property
    def name(self) -> str:
        """Stored with each row, so that it is asked again by the same rail: `mint`, `nwc`."""
        ...

    @property
    def account(self) -> str | None:
        """The account of the books in which its money is; None if it books by itself."""
        ...

    async def limits(self) -> RailLimits:
        """What it can do just now; remembered for a while."""
        ...

    async def make_invoice(self, wish: Wish) -> Made:
        """An invoice for us, unpaid. One that is lost on the way costs nothing: nobody was shown it."""
        ...

    async def look(self, handle: str) -> Seen:
        """Where an invoice of ours stands, whatever its expiry."""
        ...

    async def pay(self, payment: Payment, *, again: bool) -> Sent:
        """Pay, once for each payment's name.

        `again`: it may have been asked to before; then it finds out, and pays only if it knows for certain that it had
        not begun. Raises nothing: what it does not know is `Verdict.UNKNOWN`.
        """
        ...

    async def balance_msat(self) -> int:
        """What can be spent through it."""
        ...
