"""Anything may happen to callers' sats, in any order, and the process may die at any point: none is lost or made."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.dvm.deaths import Dead, Fate
from tests.tradepost.facade.money.tills import Box, Life, Payer, caller
from tradepost.facade.money.withdrawals import ECASH, LIGHTNING, Wish
from tradepost.facade.web.problems import Refusal
from tradepost.testing.mint import Melts
from wallet import WalletError, parse_token

NAMES = ("ann", "bob")
FUNDED = 300
some = st.integers(1, 400)
names = st.sampled_from(NAMES)
Step = Callable[[Life], Awaitable[object]]

pytestmark = pytest.mark.no_cover


class Callers(RuleBasedStateMachine):
    """Two callers, their jobs and a mint with faults."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack, self.lives = AsyncExitStack(), AsyncExitStack()
        self.box = Box(Path(self.stack.enter_context(tempfile.TemporaryDirectory())))
        self.tokens: list[tuple[str, str]] = []
        self.invoices: list[str] = []
        self.jobs: dict[str, bool] = {}  # whether each has ended
        self.orders: dict[tuple[str, int], str] = {}
        self.number = 0
        self.dies_in: int | None = None
        self.payer: Payer = self.run(self.stack.enter_async_context(self.box.payer(20_000)))
        self.life: Life = self.run(self.lives.enter_async_context(self.box.life()))
        self.run(self.life.fund_post(FUNDED))

    def run(self, step: Awaitable[object]) -> object:  # type: ignore[type-arg]
        return self.loop.run_until_complete(step)  # type: ignore[arg-type]

    def do(self, step: Step) -> None:
        """One step of the process that lives; what it refuses it refuses, and if it dies there is another life."""
        try:
            self.run(step(self.life))
        except (Refusal, WalletError):
            pass
        except Dead:
            self.run(self.begin_life())

    async def begin_life(self, fate: Fate | None = None) -> None:
        with suppress(Dead):
            await self.lives.aclose()
        self.lives = AsyncExitStack()
        self.life = await self.lives.enter_async_context(self.box.life(fate))
        await self.life.wake()

    @rule(at=st.integers(0, 12))
    def die_soon(self, at: int) -> None:
        """The next life dies at one of its points, perhaps already while it wakes up."""
        try:
            self.run(self.begin_life(Fate(at)))
        except Dead:
            self.run(self.begin_life())

    @rule()
    def wake(self) -> None:
        self.do(lambda life: life.wake())

    @rule(fault=st.sampled_from(["lose_answer", "lose_request"]), path=st.sampled_from(["/v1/swap", "/v1/m"]))
    def fault(self, fault: str, path: str) -> None:
        getattr(self.box.mint, fault)(path)

    @rule(melts=st.sampled_from(list(Melts)))
    def lightning(self, melts: Melts) -> None:
        self.box.mint.melts = melts

    @rule(paid=st.booleans())
    def finish(self, paid: bool) -> None:
        self.box.mint.finish_melt(paid=paid)

    @rule(name=names, sat=some)
    def bring_token(self, name: str, sat: int) -> None:
        with suppress(WalletError):
            token = str(self.run(self.payer.token(sat)))
            self.tokens.append((name, token))
            self.do(lambda life: life.bring(name, token))

    @precondition(lambda self: self.tokens)
    @rule(name=names)
    def bring_again(self, name: str) -> None:
        self.do(lambda life: life.bring(name, self.tokens[-1][1]))

    @rule(name=names, sat=some)
    def ask_invoice(self, name: str, sat: int) -> None:
        async def ask(life: Life) -> None:
            self.invoices.append((await life.till.deposits.ask(caller(name), sat, client="here")).bolt11)

        self.do(ask)

    @precondition(lambda self: self.invoices)
    @rule(name=names)
    def pay_invoice(self, name: str) -> None:
        self.box.mint.pay(self.invoices.pop())
        self.do(lambda life: life.till.deposits.arrived(caller(name).id))

    @rule(name=names, sat=some)
    def begin_job(self, name: str, sat: int) -> None:
        async def begin(life: Life) -> None:
            self.number += 1
            self.jobs[await life.begin(name, str(self.number), sat)] = False

        self.do(begin)

    @precondition(lambda self: not all(self.jobs.values()))
    @rule(
        number=st.integers(1, 2),
        state=st.sampled_from(["paid", "done", "lost", "refunded", "cancelled"]),
        sat=some,
    )
    def move_order(self, number: int, state: str, sat: int) -> None:
        job = next(job for job, ended in self.jobs.items() if not ended)
        if self.orders.get((job, number)) in (None, "paid", "done", "lost"):
            back = sat // 2 if state == "refunded" else 0
            self.orders[job, number] = state
            self.do(lambda life: life.order(job, number, state, price=sat, paid=sat, back=back))

    @precondition(lambda self: not all(self.jobs.values()))
    @rule()
    def end_job(self) -> None:
        job = next(job for job, ended in self.jobs.items() if not ended)
        self.jobs[job] = True
        self.do(lambda life: life.end(job))

    @precondition(lambda self: any(self.jobs.values()))
    @rule(sat=some)
    def refund_late(self, sat: int) -> None:
        job = [job for job, ended in self.jobs.items() if ended][-1]
        if self.orders.get((job, 1)) in ("done", "lost"):
            self.orders[job, 1] = "refunded"
            self.do(lambda life: life.order(job, 1, "refunded", price=sat, paid=sat, back=sat // 3))

    @rule(name=names, sat=st.none() | some, way=st.sampled_from([ECASH, LIGHTNING]))
    def withdraw(self, name: str, sat: int | None, way: str) -> None:
        to = self.box.mint.invoice(sat or 50) if way == LIGHTNING else ""
        wish = Wish(way, to, sat)
        self.do(lambda life: life.till.payouts.begin(caller(name), wish))

    @invariant()
    def books_agree(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        """Each balance is what its rows come to, and nobody is below zero."""
        db = self.life.post.db
        for name in NAMES:
            who = caller(name).id
            came = await self.sum(
                f"SELECT SUM(credited_sat) AS n FROM caller_deposits WHERE caller = '{who}'"
            )
            went = await self.sum(
                "SELECT SUM(CASE state WHEN 'open' THEN held_sat WHEN 'done' THEN amount_sat + fee_sat ELSE fee_sat END)"
                f" AS n FROM caller_withdrawals WHERE caller = '{who}'"
            )
            taken = await self.sum(
                f"SELECT SUM(COALESCE(cost_sat, reserved_sat)) AS n FROM caller_jobs WHERE caller = '{who}'"
            )
            held = await self.sum(
                f"SELECT SUM(reserved_sat) AS n FROM caller_jobs WHERE caller = '{who}' AND cost_sat IS NULL"
            ) + await self.sum(
                f"SELECT SUM(held_sat) AS n FROM caller_withdrawals WHERE caller = '{who}' AND state = 'open'"
            )
            balance = await self.life.till.balance(who)
            assert (balance.balance_sat, balance.held_sat) == (came - went - taken, held)
            assert min(balance.balance_sat, balance.held_sat) >= 0
        assert (await self.life.post.wallet.audit()).ok
        assert await db.one("SELECT 1 FROM caller_jobs WHERE cost_sat > reserved_sat") is None

    async def sum(self, sql: str) -> int:
        row = await self.life.post.db.one(sql)
        return int(row["n"] or 0) if row else 0

    def teardown(self) -> None:
        """When nothing is under way any more, what is in the wallet is what came less what went."""
        try:
            self.run(self.come_to_rest())
        finally:
            for stack in (self.lives, self.stack):
                with suppress(Dead):
                    self.run(stack.aclose())
            self.loop.close()

    async def come_to_rest(self) -> None:
        self.box.mint.melts = Melts.PAID
        self.box.mint._next_faults.clear()
        self.box.mint.finish_melt(paid=True)
        await self.begin_life()
        await self.life.wake()
        came = await self.sum("SELECT SUM(credited_sat) AS n FROM caller_deposits")
        went = await self.sum(
            "SELECT SUM(CASE state WHEN 'done' THEN amount_sat + fee_sat ELSE fee_sat END) AS n FROM caller_withdrawals"
        )
        assert await self.sum("SELECT COUNT(*) AS n FROM caller_withdrawals WHERE state = 'open'") == 0
        assert (
            await self.sum("SELECT COUNT(*) AS n FROM caller_deposits WHERE state = 'open' AND way = 'ecash'")
            == 0
        )
        assert sum((await self.life.post.wallet.balance()).values()) == FUNDED + came - went
        for _, token in self.tokens:  # each was credited, or is still its owner's
            taken = self.box.mint.is_spent(parse_token(token).proofs[0])
            credited = await self.life.post.db.one(
                "SELECT 1 FROM caller_deposits WHERE state = 'done' AND way = 'ecash' AND credited_sat > 0"
            )
            assert not taken or credited
        await self.check()
        await self.life.check_books()


TestCallers = Callers.TestCase
TestCallers.settings = settings(
    max_examples=8, stateful_step_count=20, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
