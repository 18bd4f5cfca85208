"""What callers have here, in the books: sats come in (`deposits.py`), are kept for jobs and charged, or go out again
(`withdrawals.py`).

    what came ──▶ caller/<id> ──▶ held/<id> ──▶ callers, or what went      each arrow is one posting, written once and
                       ▲             │                                     together with the row that it is about
                       └── the rest ─┘

A job reserves in the transaction that begins its guarantee, so there is none without the other. It is charged when the
guarantee has ended and nothing is waited for by any of its orders: what they cost by dvm's own rows, all fees included.
Never more than was reserved: what is beyond is the post's, and logged. That is little, whatever agents do: orders cost
at most the `max_sat` of their guarantee and the fees of the last one (`attach_order`), for which `amount_for` reserves.
Beyond are the fees of swapping more than COINS_MAX coins of ours, and those of each order whose time was over before
the mint had locked its coins. What comes back after that is credited once.
"""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Final

import structlog

from dvm import Post
from dvm.queries_guarantees import is_at_rest
from relay_bridge.tasks import Tasks
from store import Transaction
from tradepost.facade.callers.callers import Caller, Callers
from tradepost.facade.callers.queries_callers import has_paid
from tradepost.facade.money import queries_till as queries
from tradepost.facade.money.deposits import Deposits, NoMint
from tradepost.facade.money.purses import Balance, BalanceTooLow, balance_of, hold, move
from tradepost.facade.money.queries_till import HEARING, CallerJob
from tradepost.facade.money.withdrawals import Payouts
from tradepost.facade.web.problems import Refusal, TooManyRequests
from tradepost.reserving import with_fees
from tradepost.settings import Settings
from wallet.ledger import CALLERS, Cause

DAY_SECONDS: Final = 86_400
LOOK_SECONDS: Final = 2.0  # for deposits that arrived, and payouts that ended
SETTLE_SECONDS: Final = 60  # for jobs whose orders come to rest after their guarantee, and for late refunds
CLOCK_SECONDS: Final = 3600  # by how much a clock that was put right may have been wrong
OPEN_JOBS_MAX: Final = 100  # of one caller: agents see one customer behind all of them, and could not be fair
STRANGERS_JOBS_MAX: Final = (
    200  # of all who never brought sats, for each time they ask they may be somebody else
)

__all__ = ["Balance", "BalanceTooLow", "BudgetExceeded", "Till"]

log = structlog.get_logger(__name__)


class BudgetExceeded(Refusal):
    """The key that asks may not spend so much; the account that it belongs to may."""

    status = 403


class Till:
    """The balances of a post's callers. `start` goes on with what an earlier process left."""

    def __init__(self, post: Post, settings: Settings, callers: Callers) -> None:
        self._post = post
        self._callers = callers
        self._tasks = Tasks()
        self._settle_at = 0
        self._refunds_since = 0  # at the first look: all of them
        self.deposits = Deposits(post, settings, callers)
        self.payouts = Payouts(post, settings, callers)

    async def start(self) -> None:
        """Credit, pay out and charge what is due, from now on."""
        self._tasks.start(self._go_on(), "till")

    async def stop(self) -> None:
        """Stop. What is open stays on disk."""
        await self._tasks.close()

    async def balance(self, caller_id: str) -> Balance:
        """What a caller has here, and what of theirs is kept for jobs and withdrawals under way."""
        return await balance_of(self._post.db, caller_id)

    async def amount_for(self, price_sat: int) -> int:
        """What a job of that price reserves, fees included; no mint is asked. Raises `NoMint`, `MintUnavailable`."""
        if price_sat == 0:
            return 0
        if not self._post.wallet.mints:
            raise NoMint
        return await with_fees(self._post.wallet, price_sat)

    # Jobs -------------------------------------------------------------------------------------------------------------

    async def reserve(self, tx: Transaction, caller: Caller, job_id: str, wish: str, sat: int) -> None:
        """Keep `sat` of a caller's balance for a job that begins in `tx`. The same job again changes nothing.

        `wish` is what was asked for, hashed. Raises `BudgetExceeded` by the budgets of the key that asks, in which
        fees count, `BalanceTooLow`, and `TooManyRequests` if too many are under way; `tx` must then be undone.
        """
        if await queries.job(tx, job_id) is not None:
            return
        if not job_id.startswith(HEARING):
            await self._check_room(tx, caller, sat)
        now = self._post.clock.now()
        await self._callers.ensure(tx, caller)
        await self._check_budget(tx, caller.key, sat, now)
        await hold(tx, caller.id, sat, name=f"reserve:{job_id}", now=now, job_id=job_id)
        await queries.insert_job(tx, CallerJob(job_id, caller.id, caller.key, wish, sat, None, now))

    async def _check_room(self, tx: Transaction, caller: Caller, sat: int) -> None:
        if await queries.open_jobs(tx, caller.id) >= OPEN_JOBS_MAX:
            raise TooManyRequests(
                f"{OPEN_JOBS_MAX} jobs of yours are under way: wait until one has ended", retry_after=10
            )
        if sat or await has_paid(tx, caller.id):
            return
        if await queries.open_jobs_of_strangers(tx) >= STRANGERS_JOBS_MAX:
            raise TooManyRequests(
                f"{STRANGERS_JOBS_MAX} free jobs of callers who never brought sats are under way: try again, or bring "
                "some: POST /v1/balance/invoices",
                retry_after=10,
            )

    async def _check_budget(self, tx: Transaction, key: str, sat: int, now: int) -> None:
        budget = await queries.budget(tx, key)
        if budget.job_sat is not None and sat > budget.job_sat:
            raise BudgetExceeded(
                f"this job may cost {sat} sat with its fees, and this key may spend {budget.job_sat} sat on one; "
                "ask with another key, or change its budget: PATCH /v1/account/keys/{key}"
            )
        if budget.day_sat is None or sat == 0:
            return
        today = now - now % DAY_SECONDS
        taken_sat = await queries.taken_since(tx, key, today)
        if taken_sat + sat > budget.day_sat:
            raise BudgetExceeded(
                f"this job may cost {sat} sat with its fees, and of the {budget.day_sat} sat that this key may spend "
                f"in a day (UTC) {taken_sat} are spent or reserved; ask again tomorrow, or with another key",
                retry_after=today + DAY_SECONDS - now,
            )

    async def charge_fee(self, tx: Transaction, caller: Caller, request_id: str, sat: int) -> None:
        """Keep what an arbiter takes at most for hearing the dispute of a job, in the transaction that begins it.

        Charged is what the hearing costs in the end: nothing, if the arbiter was never paid. Raises as `reserve`.
        """
        await self.reserve(tx, caller, HEARING + request_id, "hearing", sat)

    async def settle(self, job_id: str) -> CallerJob | None:
        """Charge a job now, if it is at rest and was not charged yet; returns what is known of it then."""
        async with self._post.db.transaction() as tx:
            row = await queries.job(tx, job_id)
            if row is None or row.cost_sat is not None or not await is_at_rest(tx, job_id):
                return row
            return await self._charge(tx, row)

    async def settle_all(self) -> None:
        """Charge all that is at rest, and credit what came back for what was charged before."""
        for job_id in await queries.jobs_at_rest(self._post.db):
            await self._try(self.settle(job_id), job_id)
        for hearing_id in await queries.hearings_at_rest(self._post.db):
            await self._try(self._settle_hearing(hearing_id), hearing_id)
        now = self._post.clock.now()
        refunded = await queries.jobs_with_money_back(self._post.db, since=self._refunds_since)
        if all([await self._try(self._credit(job_id), job_id) for job_id in refunded]):
            self._refunds_since = now - CLOCK_SECONDS

    @staticmethod
    async def _try(step: Awaitable[object], job_id: str) -> bool:
        try:
            await step
        except Exception:  # one that is stuck holds up no other; the next round tries again
            log.exception("job_stuck", job=job_id)
            return False
        return True

    async def _settle_hearing(self, hearing_id: str) -> None:
        async with self._post.db.transaction() as tx:
            row = await queries.job(tx, hearing_id)
            if row is not None and row.cost_sat is None:
                await self._charge(tx, row)

    async def _charge(self, tx: Transaction, row: CallerJob) -> CallerJob:
        """Post what it cost, at most what was reserved, and give the rest back."""
        spent_sat = await queries.cost(tx, row.id)
        cost_sat = min(row.reserved_sat, max(0, spent_sat))
        await move(
            tx, row.caller, f"charge:{row.id}", Cause.CHARGE, now=self._post.clock.now(), counter=CALLERS,
            free_sat=row.reserved_sat - cost_sat, held_sat=-row.reserved_sat, job_id=row.id,
        )  # fmt: skip
        await queries.set_cost(tx, row.id, cost_sat)
        if spent_sat > row.reserved_sat:
            log.warning("job_cost_more", job=row.id, beyond_sat=spent_sat - row.reserved_sat)
        return replace(row, cost_sat=cost_sat)

    async def _credit(self, job_id: str) -> None:
        """Give back what a job was charged and does not cost after all: decided by the amounts, so once.

        What a job costs only falls, so that no two postings of this are called the same.
        """
        async with self._post.db.transaction() as tx:
            row = await queries.job(tx, job_id)
            if row is None or row.cost_sat is None:
                return
            cost_sat = min(row.cost_sat, max(0, await queries.cost(tx, job_id)))
            back_sat = row.cost_sat - cost_sat
            if back_sat == 0:
                return
            await move(
                tx, row.caller, f"back:{job_id}:{cost_sat}", Cause.CREDIT, now=self._post.clock.now(),
                free_sat=back_sat, counter=CALLERS, job_id=job_id,
            )  # fmt: skip
            await queries.set_cost(tx, job_id, cost_sat)
        log.info("job_refunded_late", job=job_id, back_sat=back_sat)

    # All that is under way --------------------------------------------------------------------------------------------

    async def _go_on(self) -> None:
        while True:
            try:
                await self.deposits.look()
                await self.payouts.look()
                if self._settle_at <= self._post.clock.now():
                    await self.settle_all()
                    await self.deposits.forget()
                    self._settle_at = self._post.clock.now() + SETTLE_SECONDS
            except Exception:  # a full disk, say; the next round tries again
                log.exception("till_failed")
            await self._post.clock.sleep(LOOK_SECONDS)
