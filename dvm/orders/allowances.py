"""What an agent may spend when it buys from others: for one of its jobs, and in a day.

An allowance is no wallet of its own, and holds no coins: it bounds what the agent's purchases cost together, or still
may. That is summed up from the purchases themselves, in the transaction that begins the next one: nothing is counted
beside them that a crash could put out of step, and what comes back to us may be spent again.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from dvm import queries_guarantees as queries
from dvm.errors import AllowanceExceeded
from dvm.kinds import kind_of
from dvm.nip90 import Input
from dvm.orders.customer import Customer
from dvm.queries import is_over
from store import Clock, Database, Transaction
from wallet.terms import Method

DAY_SECONDS: Final = 86_400


@dataclass(frozen=True)
class Allowance:
    """At most so many sats for one job, and for all that is begun on one day (UTC); the mints' fees come on top."""

    job_sat: int
    day_sat: int

    def __post_init__(self) -> None:
        if min(self.job_sat, self.day_sat) <= 0:
            raise ValueError(
                "job_sat and day_sat are sats, more than 0; without an allowance nothing is bought"
            )


@dataclass(frozen=True)
class Standing:
    """What an agent spent today, reserved included, and when its day is over."""

    spent_sat: int
    left_sat: int
    renews_at: int


async def standing(source: Database | Transaction, name: str, allowance: Allowance, now: int) -> Standing:
    """Where the agent of that short name stands."""
    today = now - now % DAY_SECONDS
    spent_sat = await queries.spent_since(source, name, today)
    left_sat = max(0, allowance.day_sat - spent_sat)
    return Standing(spent_sat, left_sat, today + DAY_SECONDS)


class Purse:
    """Buys for one agent, as `customer`, the post's own; `arbiters` are those that the post trusts.

    `name` is the agent's short name, `public_key` its key: it does not buy from itself. Without an allowance it buys
    only what costs nothing.
    """

    def __init__(
        self,
        customer: Customer,
        allowance: Allowance | None,
        *,
        name: str,
        public_key: str,
        arbiters: Sequence[str] = (),
        clock: Clock,
    ) -> None:
        self.customer = customer
        self.allowance = allowance
        self.name = name
        self.public_key = public_key
        self.arbiters = tuple(arbiters)
        self.clock = clock

    def for_job(self, job_id: str) -> "JobPurse":
        """What buys for one run of a job."""
        return JobPurse(self, job_id)

    async def close(self, tx: Transaction, job_id: str) -> None:
        """Buy nothing more for a job, which ends in `tx`: what is asked of others is taken back."""
        await self.customer.drop(tx, self.name, job_id)


class JobPurse:
    """Buys for one job, in one run of it: a `hiring.Buyer`."""

    def __init__(self, purse: Purse, job_id: str) -> None:
        self.allowance = purse.name
        self.job_id = job_id
        self._purse = purse
        self._alike = Counter[str]()

    async def buy(
        self,
        target: str,
        text: str | Sequence[Input],
        *,
        kind: int | str,
        max_sat: int,
        params: Mapping[str, str | Sequence[str]],
        private: bool,
        others: bool,
        seconds_max: int,
    ) -> str:
        """Have a part of the job done; returns the result's text. See `Job.ask`.

        A job that is run again after a crash asks the same again: it gets what it bought then, and pays once.
        """
        number = kind if isinstance(kind, int) else kind_of(kind or target)
        arbiters = () if private else self._purse.arbiters
        settle = (*((Method.ESCROW,) if arbiters else ()), Method.PREPAID)
        wish = hashlib.sha256(
            msgspec.json.encode((target, text, number, params, max_sat, private))
        ).hexdigest()
        self._alike[wish] += 1
        guarantee = await self._purse.customer.hire(
            target, text, kind=number, max_sat=max_sat, params=params, private=private, seconds_max=seconds_max,
            arbiters=arbiters, settle=settle, others=others, avoid=(self._purse.public_key,),
            name=f"{self.allowance}:{self.job_id}:{wish}:{self._alike[wish]}", buyer=self,
        )  # fmt: skip
        return await guarantee.result()

    async def check(self, tx: Transaction, guarantee_id: str, sat: int) -> None:  # noqa: ARG002 - for other buyers
        """Raise `AllowanceExceeded` if what was begun in `tx`, for at most `sat`, is more than the agent may spend."""
        if await is_over(tx, self._purse.public_key, self.job_id):
            raise AllowanceExceeded("the job is over: nothing is bought for it", left_sat=0, renews_at=None)
        if sat == 0:
            return
        allowance, now = self._purse.allowance, self._purse.clock.now()
        if allowance is None:
            raise AllowanceExceeded(
                f"{self.allowance} may not spend anything; give it an allowance in tradepost.yaml: "
                f"allowances: {{{self.allowance}: {{job_sat: …, day_sat: …}}}}",
                left_sat=0,
                renews_at=None,
            )
        spent_sat = await queries.spent_for_job(tx, self.allowance, self.job_id) - sat
        if spent_sat + sat > allowance.job_sat:
            raise AllowanceExceeded(
                f"{sat} sat are more than {self.allowance} may still spend on this job: {spent_sat} of "
                f"{allowance.job_sat} sat are spent or reserved (allowances in tradepost.yaml: job_sat)",
                left_sat=allowance.job_sat - spent_sat,
                renews_at=None,
            )
        today = await standing(tx, self.allowance, allowance, now)
        if today.spent_sat > allowance.day_sat:
            spent_sat = today.spent_sat - sat
            raise AllowanceExceeded(
                f"{sat} sat are more than {self.allowance} may still spend today: {spent_sat} of "
                f"{allowance.day_sat} sat are spent or reserved (allowances in tradepost.yaml: day_sat); it renews in "
                f"{-(-(today.renews_at - now) // 3600)} h",
                left_sat=allowance.day_sat - spent_sat,
                renews_at=today.renews_at,
            )
