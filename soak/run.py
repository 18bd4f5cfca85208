"""One run of a plan, from the customer's request to the last sat; and what must be so afterwards."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from dvm import BadRequest, JobFailed, OrderState, queries
from dvm.escrow.messages import Wishes
from soak import cheats
from soak.judge import Judge
from soak.judge_escrow import EscrowJudge
from soak.judge_sales import InvoiceJudge, RevealJudge
from soak.plan import Plan
from soak.virtual import run_virtually
from soak.world import (
    DELIVER_SECONDS,
    EARLIER_SAT,
    KIND,
    NAMES,
    PRICE_SAT,
    RESULT,
    Outside,
    Party,
    World,
    ground,
    known_by_heart,
)
from wallet import WalletError, queries_escrows
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

STORM_SECONDS: Final = 1_500  # beyond every locktime; then the weather is fair, so that all can end
LIMIT_SECONDS: Final = 5_000  # what is paid by Lightning counts as lost after 3,900
LOOK_SECONDS: Final = 45
ROLES: Final = {"customer": Role.CUSTOMER, "provider": Role.PROVIDER, "arbiter": Role.ARBITER}
JUDGES: Final = {Method.ESCROW: EscrowJudge, Method.REVEAL: RevealJudge, Method.INVOICE: InvoiceJudge}


@dataclass
class Outcome:
    """What came of a run: `problems` is empty if all is as it must be."""

    plan: Plan
    digest: str
    problems: list[str]
    seen: frozenset[str] = frozenset()  # dispute, refund, restart, …
    provider_sat: int = 0
    points: dict[str, list[str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Run:
    """A world that follows a plan. `outside`: what there is of it already."""

    def __init__(self, plan: Plan, folder: Path, outside: Outside | None = None) -> None:
        self.plan = plan
        if outside is None:
            outside = Outside(random.Random(plan.seed))
            if plan.customer == "poor":
                outside.make_poor("customer")
        self.world = World(folder, outside, plan.weather)
        self.left, self.orders = outside.left, outside.orders
        self.problems: list[str] = []

    async def play(self) -> Outcome:
        """Do it, and look."""
        world, plan = self.world, self.plan
        world.work = self._work
        if plan.cheater == "provider" and plan.provider == "hangs":
            world.work_seconds_max = 10 * LIMIT_SECONDS  # it does not give the money back
        world.credit_sat = EARLIER_SAT if plan.on_credit else 0
        world.fee_sat = plan.fee_sat
        async with world:
            for name in NAMES:
                world[name].began = partial(cheats.begin, plan.cheat, name)
            keepers = [asyncio.create_task(self._keep(world[name])) for name in NAMES]
            actors = [
                asyncio.create_task(actor())
                for actor in (
                    self._ask,
                    self._act,
                    self._relent,
                    self._regret,
                    self._rule,
                    self._leave_sale,
                    lambda: cheats.act(plan.cheat, self),
                )
            ]
            await self._to_the_end()
            for task in (*keepers, *actors):
                task.cancel()
            await asyncio.wait([*keepers, *actors])
            for task in actors:
                if not task.cancelled() and task.exception():
                    self.problems.append(f"an actor failed: {task.exception()!r}")
            points = {name: list(world[name].fate.points) for name in NAMES}
            provider_sat = await self._check()
            seen = await self._seen()
            lines = world.trace.lines
        return Outcome(plan, world.trace.digest, self.problems, seen, provider_sat, points, lines)

    # What the parties do -------------------------------------------------------------------------------------

    async def _keep(self, party: Party) -> None:
        """Start it, kill it when its time has come, start it again."""
        kills = [kill for kill in self.plan.kills if kill[0] == party.name]
        while party.name not in self.left:
            party.fate.dies_at = len(party.fate.points) + kills[0][1] if kills else None
            await party.start()
            self.world.trace.wrote(party.name)  # what it wrote as it died may be looked at now
            if party.life is None:
                return
            await party.life.died.wait()
            await party.end()
            await asyncio.sleep(kills.pop(0)[2] if kills else 1)

    async def leave(self, name: str) -> None:
        """A party goes for good."""
        self.left.add(name)
        party = self.world[name]
        if party.life is not None:
            party.life.died.set()

    async def doing(self, name: str, step: Callable[[], Awaitable[Any]]) -> Any:
        """Let a party do something, as soon as it is there; None if it dies over it, or may not."""
        party = self.world[name]
        while not party.alive or party.role is None:
            if name in self.left:
                return None
            await asyncio.sleep(1)
        assert party.life is not None
        task = party.life.spawn(_quietly(step))
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    async def _ask(self) -> None:
        customer, wanted = self.world["customer"], 2 if "two jobs" in self.plan.cheat else 1
        while True:
            while not customer.alive or customer.role is None:
                await asyncio.sleep(1)
            rows = await queries.recent_orders(customer.post.db, 5)
            self.orders[:] = [row.id for row in rows if row.kind == KIND]
            if len(self.orders) >= wanted:
                return
            await self.doing("customer", lambda: self._ask_once(customer))

    async def _ask_once(self, customer: Party) -> None:
        await customer.role.ask(
            self.world["provider"].key, "hello", kind=KIND, max_sat=1 if self.plan.customer == "stingy" else 10,
            settle=(Method.PREPAID, Method.INVOICE) if "pays twice" in self.plan.cheat else (self.plan.method,),
            seconds_max=DELIVER_SECONDS, private=self.plan.private,
            arbiters=[self.world["arbiter"].key] if self.plan.method is Method.ESCROW else (),
            review=self.plan.customer != "content",
        )  # fmt: skip

    async def _work(self, _job: Any) -> str:
        await asyncio.sleep(self.plan.works_seconds)
        match self.plan.provider:
            case "fails":
                raise JobFailed("cannot")
            case "hangs":
                await asyncio.sleep(100_000)
            case "leaves" if self.plan.method is not Method.REVEAL:
                await self.leave("provider")
                await asyncio.sleep(1)
        return RESULT

    async def _act(self) -> None:
        if self.plan.method is not Method.ESCROW or self.plan.customer == "content":
            return
        await self.reach("customer", Stage.DELIVERED)
        if self.plan.customer == "leaves":
            await self.leave("customer")
        await asyncio.sleep(self.plan.acts_seconds)
        customer = self.world["customer"]  # its role is another one after each restart
        match self.plan.customer:
            case "accepts":
                await self.doing("customer", lambda: customer.role.accept(self.orders[0]))
            case "disputes" | "relents":
                while await self.is_in("customer", Stage.DELIVERED):
                    await self.doing(
                        "customer", lambda: customer.role.dispute(self.orders[0], "not what I asked for")
                    )
                    await asyncio.sleep(1)

    async def _relent(self) -> None:
        if self.plan.customer != "relents":
            return
        customer, unpaid = self.world["customer"], (Stage.DISPUTED, Stage.OVERDUE)
        await self.reach("customer", *unpaid)
        await asyncio.sleep(self.plan.relents_seconds)
        while await self.is_in("customer", *unpaid):
            await self.doing("customer", lambda: customer.role.accept(self.orders[0]))
            await asyncio.sleep(1)

    async def _regret(self) -> None:
        if self.plan.provider != "regrets":
            return
        provider = self.world["provider"]
        await self.reach("provider", Stage.DISPUTED)
        await asyncio.sleep(self.plan.relents_seconds)
        wish = Wishes("give_back")
        while await self.is_in("provider", Stage.DISPUTED):
            await self.doing("provider", lambda: provider.role._desk.wish(self.orders[0], wish))
            await asyncio.sleep(1)

    async def _leave_sale(self) -> None:
        """Go when the customer has paid: the customer itself, or the provider with a key to sell."""
        plan = self.plan
        if plan.method is Method.REVEAL and plan.provider == "leaves":
            await self.reach("customer", Stage.HELD)
            await self.leave("provider")
        if plan.method is Method.REVEAL and plan.customer == "leaves":
            await self.reach("provider", Stage.CLAIMING, Stage.PAID)
            await self.leave("customer")
        if plan.method is Method.INVOICE and plan.customer == "leaves":
            while await self.order_state() not in (OrderState.PAID, OrderState.DONE):
                await self.world.trace.changed("customer")
            await self.leave("customer")

    async def _rule(self) -> None:
        if self.plan.arbiter == "leaves":
            await self.reach("provider", Stage.HELD, Stage.DELIVERED)
            await asyncio.sleep(self.plan.rules_seconds)
            await self.leave("arbiter")
        if self.plan.arbiter != "rules":
            return
        row = await self.reach("arbiter", Stage.DISPUTED)
        await asyncio.sleep(self.plan.rules_seconds)
        while await self.is_in("arbiter", Stage.DISPUTED):
            await self.doing(
                "arbiter", lambda: self.world["arbiter"].role.rule(row.request_id, self.plan.award_sat)
            )
            await asyncio.sleep(5)

    async def row(self, name: str, number: int = 0) -> EscrowRow | None:
        """A party's view of the escrow, as it is on its disk."""
        party = self.world[name]
        if number >= len(self.orders) or party.life is None or not hasattr(party.life, "db"):
            return None
        return await queries_escrows.get(party.life.db, ROLES[name], party.key, self.orders[number])

    async def order_state(self) -> OrderState | None:
        """Where the order stands, as it is on the customer's disk; None if there is none."""
        life = self.world["customer"].life
        if not self.orders or life is None or not hasattr(life, "db"):
            return None
        order = await queries.get_order(life.db, self.orders[0])
        return None if order is None else order.state

    async def reach(self, name: str, *stages: Stage) -> EscrowRow:
        """Wait until a party's view is in a stage."""
        while (row := await self.row(name)) is None or row.stage not in stages:
            await self.world.trace.changed(name)
        return row

    async def is_in(self, name: str, *stages: Stage) -> bool:
        """Whether a party's view is in one of these stages; asked once it is alive."""
        while (row := await self.row(name)) is None:
            await asyncio.sleep(1)
        return row.stage in stages

    # The end -------------------------------------------------------------------------------------------------

    async def _to_the_end(self) -> None:
        begun = asyncio.get_running_loop().time()
        while (passed := asyncio.get_running_loop().time() - begun) < LIMIT_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            if passed > STORM_SECONDS:
                self.world.calm_down()
            if self.orders and not await self.unfinished():
                return
        self.problems += await self.unfinished()

    async def unfinished(self) -> list[str]:
        """What is still to come, in words."""
        found = ["letters are on their way"] if self.world.office.flying else []
        for name in [name for name in NAMES if name not in self.left]:
            party = self.world[name]
            if not party.alive or party.role is None:
                found.append(f"{name} is dead")
                continue
            db = party.post.db
            rows = await db.all(
                "SELECT request_id, stage FROM escrows WHERE party = ? AND role = ?", party.key, name
            )
            escrow = self.plan.method is Method.ESCROW
            if escrow and name == "provider" and "customer" in self.left and await self._is_alone():
                rows = []  # nobody is left who could sign
            found += [f"{name} {row['stage']}" for row in rows if not Stage(row["stage"]).is_final]
            if await db.all("SELECT 1 FROM wallet_operations WHERE state IN ('open', 'planned')"):
                found.append(f"{name} has an open operation")
            if await db.all("SELECT 1 FROM lightning_payments WHERE state IN ('recorded', 'asked')"):
                found.append(f"{name} has a Lightning payment under way")
            for row in await db.all(
                "SELECT payment_hash, state FROM invoices WHERE state IN ('open', 'surplus')"
            ):
                if self.world.network.bills[row["payment_hash"]].received_msat:
                    found.append(f"{name} has a paid invoice that is {row['state']}")
            if name == "customer":
                found += [f"order {row.state}" for row in await queries.open_orders(db, party.key)]
            if name != "customer" and self.plan.cheater != name:
                jobs = await db.all(
                    "SELECT state FROM jobs WHERE state NOT IN ('done', 'failed', 'expired', 'returned', 'cancelled')"
                )
                found += [f"job {row['state']}" for row in jobs]
            if any(
                until is None or until >= party.clock.now() for _, until in party.mailbox.outgoing.values()
            ):
                found.append(f"{name} has letters to send")
        return found

    async def _is_alone(self) -> bool:
        """Whether no arbiter will sign any more."""
        case = await self.row("arbiter")
        return "arbiter" in self.left or case is None or case.stage is Stage.VOID

    async def _seen(self) -> frozenset[str]:
        seen = {f"method {self.plan.method}", *([f"cheat {self.plan.cheat}"] if self.plan.cheat else [])}
        customer = await self.row("customer")
        if any(self.world[name].lives > 1 for name in NAMES):
            seen.add("restart")
        if customer is not None and customer.statements:
            seen.add("dispute")
        for order in self.orders:
            row = await queries.get_order(self.world["customer"].post.db, order)
            seen.add(f"order {row and row.state}")
            if row is not None and row.state is OrderState.REFUNDED:
                seen.add("refund")
        return frozenset(seen)

    async def _check(self) -> int:
        self.world.calm_down()
        for name in NAMES:  # who went for good is asked too: what it had is not gone
            party = self.world[name]
            party.fate.dies_at = None
            if not party.alive:
                await party.end()
                await party.start(acts=False)
        self.problems += [f"{name}: {error!r}" for name in NAMES for error in self.world[name].errors]
        self.problems += [
            f"{name}: {e!r}" for name in NAMES if (life := self.world[name].life) for e in life.errors
        ]
        return await JUDGES.get(self.plan.method, Judge)(self).judge()


async def _quietly(step: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await step()
    except (BadRequest, WalletError):
        return None


def play(
    plan: Plan,
    folder: Path,
    outside: Outside | None = None,
    *,
    struck: Callable[[Outside], None] = lambda _outside: None,
) -> Outcome:
    """One run, in a folder that is empty; or the rest of one, with what was left of it there and outside.

    `struck` is called when a party is to die, before it does.
    """

    async def main() -> Outcome:
        run = Run(plan, folder, outside)
        run.world.struck = struck
        return await run.play()

    ground()  # not inside the loop
    seed, time = (plan.seed, 0.0) if outside is None else (plan.seed + 1, outside.time)
    with known_by_heart():
        return run_virtually(main, seed, time)


__all__ = ["PRICE_SAT", "Outcome", "Run", "play"]
