"""Jobs over HTTP: each is hired for by the post's own customer, in a caller's name and with the caller's sats.

What a caller asked for is not kept here a second time: it is found again in the job store, where `allowance` says whose
a guarantee is, and `job_id` by which of the caller's keys it was begun.
"""

import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from dvm import Customer, Guarantee, NoAgentFound, Post, queries_guarantees
from dvm.kinds import name_of
from dvm.queries import OrderRow
from dvm.queries_guarantees import GuaranteeRow
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Transaction
from tradepost.facade.callers.callers import Caller
from tradepost.facade.jobs.wishes import Plan
from tradepost.facade.money import queries_till
from tradepost.facade.money.till import Till
from tradepost.facade.web.problems import IdempotencyKeyReused, NotFound
from wallet.queries_books import abandoned

_PREFIX: Final = "caller:"


@dataclass(frozen=True)
class Job:
    """One job, as the job store has it: what was hired for, and the orders that were made for it, oldest first."""

    row: GuaranteeRow
    orders: Sequence[OrderRow]
    mints_gone: frozenset[str] = frozenset()  # that were given up: nothing is waited for there

    @property
    def id(self) -> str:
        """Its name, at this desk."""
        return self.row.id


@dataclass(frozen=True)
class _Buyer:
    """Pays from a caller's balance: a `dvm.orders.hiring.Buyer`."""

    till: Till
    caller: Caller
    wish: str
    amount_sat: int  # with fees
    allowance: str
    job_id: str

    async def check(self, tx: Transaction, guarantee_id: str, sat: int) -> None:  # noqa: ARG002 - fees are in ours
        """Raises what `Till.reserve` does: then nothing was begun."""
        await self.till.reserve(tx, self.caller, guarantee_id, self.wish, self.amount_sat)


class Hiring:
    """The jobs of callers. They go on with the customer; `stop` only ends the waiting for what they cost."""

    def __init__(self, post: Post, customer: Customer, till: Till) -> None:
        self.customer = customer
        self._post = post
        self._till = till
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Stop waiting; the till finds by itself what has ended."""
        await self._tasks.close()

    async def begin(self, caller: Caller, plan: Plan, wish: str, name: str = "") -> Job:
        """Have work done for a caller; on disk, with what is reserved for it, when this returns.

        `wish` is what was asked for, hashed. The same `name` is the same job again. Raises `BadRequest`,
        `NoAgentFound`, `MintUnavailable`, and what `Till.reserve` and `named` raise; then nothing has begun.
        """
        name = name or secrets.token_hex(16)
        amount_sat = await self._till.amount_for(plan.max_sat)
        buyer = _Buyer(self._till, caller, wish, amount_sat, allowance=whose(caller.id), job_id=caller.key)
        try:
            guarantee = await self._hire(caller, plan, buyer, name)
        except NoAgentFound:
            if not any(relay.connected for relay in self._post.pool.health().values()):
                raise
            raise NoAgentFound(
                f"no live agent does {name_of(plan.kind)} ({plan.kind}) for at most {plan.max_sat} sat, as far as this "
                "post's relays show: see GET /v1/agents, or raise `max_sat`"
            ) from None
        self._tasks.start(self._charge(guarantee), f"charge:{guarantee.id}")
        job = await self.named(caller, name, wish)  # another request may have been quicker, with another wish
        assert job is not None
        return job

    async def _hire(self, caller: Caller, plan: Plan, buyer: _Buyer, name: str) -> Guarantee:
        return await self.customer.hire(
            plan.target, plan.inputs, kind=plan.kind, max_sat=plan.max_sat, params=plan.params, private=plan.private,
            seconds_max=plan.seconds_max, arbiters=plan.arbiters, settle=plan.settle, review=plan.review,
            others=plan.others, avoid=plan.avoid, own=plan.own, buyer=buyer,
            name=_name(caller, name),
        )  # fmt: skip

    async def _charge(self, guarantee: Guarantee) -> None:
        await guarantee.wait()
        await self._till.settle(guarantee.id)

    async def named(self, caller: Caller, name: str, wish: str) -> Job | None:
        """The job that a caller began under that name; None if there is none.

        Raises `IdempotencyKeyReused` if it was for something else.
        """
        job_id = self.customer.guarantee_id(_name(caller, name))
        row = await queries_guarantees.get_guarantee(self._post.db, job_id)
        if row is None:
            return None
        known = await queries_till.job(self._post.db, job_id)
        if known is not None and known.wish != wish:
            raise IdempotencyKeyReused(
                "this Idempotency-Key was sent with another job before: take a new one for a new job"
            )
        return await self._with_orders(row)

    async def find(self, caller: Caller, job_id: str) -> Job:
        """One of a caller's jobs. Raises `NotFound`, also for those of others."""
        row = await queries_guarantees.get_guarantee(self._post.db, job_id)
        if row is None or row.allowance != whose(caller.id):
            raise NotFound(f"you have no job {job_id[:64]!r} here: GET /v1/jobs lists yours")
        return await self._with_orders(row)

    async def newest(self, caller: Caller, before: tuple[int, str], limit: int) -> list[Job]:
        """Some of a caller's jobs, the newest first: those that began before another one, by its time and id."""
        rows = await queries_guarantees.guarantees_for(self._post.db, whose(caller.id), before, limit)
        orders = await queries_guarantees.orders_of_all(self._post.db, [row.id for row in rows])
        gone = await self._mints_gone()
        return [Job(row, orders[row.id], gone) for row in rows]

    async def call_off(self, job: Job) -> None:
        """End a job. Raises `BadRequest` if it has ended."""
        await self.customer.call_off(job.id)

    async def ended(self, job_id: str, seconds: float) -> None:
        """Wait until a job has ended, but not longer than that."""
        guarantee = self.customer.guarantee(job_id)
        if guarantee is not None and seconds > 0:
            with suppress(TimeoutError):
                await within(self._post.clock, seconds, guarantee.wait())

    async def _with_orders(self, row: GuaranteeRow) -> Job:
        orders = await queries_guarantees.orders_of(self._post.db, row.id)
        return Job(row, orders, await self._mints_gone())

    async def _mints_gone(self) -> frozenset[str]:
        return frozenset(await abandoned(self._post.db))


def whose(caller_id: str) -> str:
    """What the job store calls a caller."""
    return _PREFIX + caller_id


def digest_of(wish: msgspec.Struct) -> str:
    """A wish, hashed: equal ones have the same."""
    return hashlib.sha256(msgspec.json.encode(wish)).hexdigest()


def _name(caller: Caller, key: str) -> str:
    return f"{whose(caller.id)}:{key}"
