"""What is done next for work that is wanted of one agent or another: a pure decision, over the orders made for it.

An agent that gives no sign of life, refuses, fails or is late is left. First its money is to come back: for a while
nobody else is asked, and what does not come back counts against the budget for as long as it is away, as do the fees of
what does: else each agent that fails would cost them anew. Whoever delivers first ends it, one that was left as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dvm.orders.lifecycle import OrderState

PATIENCE_SECONDS: Final = 30  # for a sign of life: an arbiter's answer may take an agent 20 s
REFUND_SECONDS: Final = 15  # an honest agent's refund is here in a second or two
LOOK_AGAIN_SECONDS: Final = 30  # after nobody was found
SHARE_SECONDS_MIN: Final = 10  # less time than this is not divided
TRIES_MAX: Final = 8
AWAY_SECONDS: Final = 120  # a relay that cannot be reached for so long is not waited for
SILENT: Final = "no sign of life"
QUICKER: Final = "another agent was quicker"
DROPPED: Final = "the job that it was for is over"
CALLED_OFF: Final = "called off"


class GuaranteeState(StrEnum):
    """Where a guarantee stands."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One order for the work. `heard`: its agent said something since it was asked, or since it was paid."""

    order_id: str
    state: OrderState
    max_sat: int
    price_sat: int
    heard: bool
    since: int  # when it came to its state, or when we began to listen
    deadline_at: int
    paid_sat: int = 0  # with fees, once they are known
    returned_sat: int = 0

    @property
    def outlay_sat(self) -> int:
        """What it takes of the budget, with the fees of what came back: `queries_guarantees` says the same in SQL."""
        match self.state:
            case OrderState.REQUESTED:
                return self.max_sat
            case (
                OrderState.PAYING
                | OrderState.PAID
                | OrderState.AWAITING_REFUND
                | OrderState.LOST
                | OrderState.DONE
                | OrderState.REFUNDED
            ):
                return max(self.paid_sat, self.price_sat) - self.returned_sat
            case _:
                return 0

    def is_under_way(self, now: int, deadline_at: int) -> bool:
        """Whether a result is waited for. Coins that are locked after its deadline are not sent any more: then the next
        agent is asked, as long as there is time until `deadline_at`.
        """
        is_late = self.state is OrderState.PAYING and self.deadline_at <= now < deadline_at
        return self.state in (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID) and not is_late

    @property
    def silent_at(self) -> int | None:
        """When the patience for a sign of life is over; None if there was one, or none is due."""
        if self.heard or self.state not in (OrderState.REQUESTED, OrderState.PAID):
            return None
        return self.since + min(PATIENCE_SECONDS, max(1, (self.deadline_at - self.since) // 2))


@dataclass(frozen=True)
class Nobody:
    """No agent that would do it for at most `sat` was found; before `until` nobody is looked for again.

    `certain`: all relays could be asked.
    """

    sat: int
    until: int
    certain: bool = True

    def covers(self, sat: int, now: int) -> bool:
        """Whether a search with so much to spend would be the same again."""
        return sat <= self.sat and now < self.until


@dataclass(frozen=True)
class Ask:
    """Ask the next agent, for at most `sat`; if there is none, decide again with `Nobody`."""

    sat: int


@dataclass(frozen=True)
class GiveUp:
    """Leave a silent agent, if there is another that does it for at most `sat`; else decide again with `Nobody`."""

    order_id: str
    sat: int


@dataclass(frozen=True)
class Wait:
    """Wait until one of the orders changes, at most until this moment."""

    until: int


@dataclass(frozen=True)
class Deliver:
    """End it with the result of this order."""

    order_id: str


@dataclass(frozen=True)
class Fail:
    """End it without a result; what is still locked comes back as that of any order."""


Step = Ask | GiveUp | Wait | Deliver | Fail


def decide_guarantee(
    attempts: Sequence[Attempt], *, max_sat: int, deadline_at: int, now: int, nobody: Nobody | None = None
) -> Step:
    """The next step of a guarantee. `attempts` are its orders, oldest first; `nobody` what the last search said."""
    for attempt in attempts:
        if attempt.state is OrderState.DONE:
            return Deliver(attempt.order_id)
    left_sat = max_sat - sum(attempt.outlay_sat for attempt in attempts)
    if now >= deadline_at + REFUND_SECONDS:
        return Fail()
    for attempt in attempts:
        if attempt.is_under_way(now, deadline_at):
            is_last = len(attempts) >= TRIES_MAX
            return _at_work(attempt, left_sat, deadline_at, now, nobody, is_last=is_last)
    waited_for = [attempt for attempt in attempts if attempt.state is OrderState.AWAITING_REFUND]
    refund_by = max((attempt.since + REFUND_SECONDS for attempt in waited_for), default=now)
    if now < refund_by:
        return Wait(refund_by)
    if now >= deadline_at:
        return Fail()
    if len(attempts) >= TRIES_MAX:
        return Wait(deadline_at) if waited_for else Fail()
    if nobody is not None and nobody.covers(left_sat, now):
        is_over = nobody.certain and not waited_for
        return Fail() if is_over else Wait(min(nobody.until, deadline_at))
    return Ask(left_sat)


def _at_work(
    attempt: Attempt, left_sat: int, deadline_at: int, now: int, nobody: Nobody | None, *, is_last: bool
) -> Step:
    """While an order is under way, which ends by itself at its deadline."""
    ends_at = attempt.deadline_at if now < attempt.deadline_at else deadline_at + REFUND_SECONDS
    silent_at = attempt.silent_at
    if is_last or silent_at is None or now >= attempt.deadline_at:
        return Wait(ends_at)
    if now < silent_at:
        return Wait(silent_at)
    fees_sat = max(0, attempt.paid_sat - attempt.price_sat)
    sat = left_sat + attempt.outlay_sat - fees_sat  # if all else of it comes back
    if nobody is not None and nobody.covers(sat, now):
        return Wait(min(nobody.until, ends_at))
    return GiveUp(attempt.order_id, sat)


def share_seconds(left_seconds: int, *, others: bool) -> int:
    """How long an agent gets of the time that is left: half of it, or all if there is nobody to ask after it."""
    is_shared = others and left_seconds // 2 >= SHARE_SECONDS_MIN
    return max(1, left_seconds // 2 if is_shared else left_seconds)
