"""Where an escrow stands for its party: what it may do with it, until when, and what a ruling gave to whom. Pure."""

from typing import Final

from dvm.escrow.agreement import award_of
from identity import parse_event
from wallet.escrow import Accepted, Answered, Contested, EscrowInput, GivesBack, Role, Ruling, decide
from wallet.queries_escrows import EscrowRow

#: What each role may do by itself, and what that is to the escrow.
ACTIONS: Final[dict[Role, dict[str, EscrowInput]]] = {
    Role.CUSTOMER: {"accept": Accepted(), "dispute": Contested()},
    Role.PROVIDER: {"answer": Answered(), "refund": GivesBack()},
    Role.ARBITER: {"rule": Ruling()},
}


def possible(row: EscrowRow, now: int) -> list[str]:
    """What its party may do with it at present: names of `ACTIONS`."""
    return [
        name
        for name, event in ACTIONS[row.role].items()
        if not (name == "answer" and row.ruling)
        and decide(row.role, row.stage, event, row.terms, now=now, delivered_at=row.delivered_at) is not None
    ]


def awards(row: EscrowRow) -> dict[str, int] | None:
    """What the arbiter's ruling awards to the `provider` and the `customer`, in sat; None without a ruling."""
    if row.ruling is None:
        return None
    ruling = parse_event(row.ruling)
    return {party: award_of(ruling, party) for party in ("provider", "customer")}


def review_until(row: EscrowRow) -> int | None:
    """Until when the customer may dispute what was delivered; None if nothing was."""
    return None if row.delivered_at is None else row.delivered_at + row.terms.review_seconds
