"""Work that is wanted of one agent or another: asked of one after the other, within one budget and one time.

Inbox: what becomes of the orders of a guarantee, and time. Duty: a result, or a failure at the latest a moment after
the deadline; and never more is paid, or locked, than the budget. What is done next is decided by
`guarantee_lifecycle.decide_guarantee` from the orders on disk alone: nothing is known here that a crash could forget.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import structlog

from dvm import queries_guarantees as queries
from dvm.errors import BadRequest, NoAgentFound, OrderFailed, Trouble
from dvm.escrow.desk import Overtaken
from dvm.orders.asking import OrderAsking
from dvm.orders.book import OrderBook
from dvm.orders.guarantee_lifecycle import (
    AWAY_SECONDS,
    CALLED_OFF,
    DROPPED,
    LOOK_AGAIN_SECONDS,
    QUICKER,
    SILENT,
    TRIES_MAX,
    Ask,
    Attempt,
    Deliver,
    Fail,
    GiveUp,
    GuaranteeState,
    Nobody,
    Wait,
    decide_guarantee,
    share_seconds,
)
from dvm.orders.hiring import Buyer, Candidate, Task, guarantee_id_of, look_for, nobody_for
from dvm.orders.lifecycle import GivenUp, OrderState
from dvm.orders.order import Guarantee, Order, Update
from dvm.post import Post
from dvm.queries import OrderRow
from dvm.queries_guarantees import GuaranteeRow
from identity import IdentityError, Signer, SignerUnavailable, encode_npub
from relay_bridge import RelayBridgeError
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Transaction
from wallet.errors import Action

RETRY_SECONDS: Final = 5
CATCH_UP_SECONDS_MAX: Final = 10
_AT_WORK: Final = (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID)

log = structlog.get_logger(__name__)


@dataclass
class _Run:
    """What is known while one guarantee is driven; all of it can be found again."""

    row: GuaranteeRow
    task: Task
    candidates: Sequence[Candidate]
    looked_at: int
    since: int = 0  # when we began to listen: before that nobody was silent whom we could not hear
    nobody: Nobody | None = None
    followed: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # orders whose end was told


class Guarantees:
    """The guarantees of one customer. `signer` does not wait for a key's holder who is away."""

    def __init__(
        self,
        post: Post,
        signer: Signer,
        tasks: Tasks,
        book: OrderBook,
        asking: OrderAsking,
        *,
        catch_up: Callable[[int], Awaitable[bool]],
    ) -> None:
        """`catch_up` reads what relays have for us, for so many seconds at most (`Customer.caught_up`)."""
        self._catch_up = catch_up
        self._post = post
        self._signer = signer
        self._tasks = tasks
        self._book = book
        self._asking = asking
        self._handles: dict[str, Guarantee] = {}
        self._changed: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Go on with what an earlier process left."""
        for row in await queries.open_guarantees(self._post.db, self._signer.public_key):
            self._go_on(row.id)

    def get(self, guarantee_id: str) -> Guarantee | None:
        """One that is driven."""
        return self._handles.get(guarantee_id)

    def open(self) -> list[Guarantee]:
        """Those that have not ended."""
        return [handle for handle in self._handles.values() if not handle.ended]

    def notice(self, row: OrderRow) -> None:
        """An order has changed."""
        if changed := self._changed.get(row.guarantee_id or ""):
            changed.set()

    async def begin(self, task: Task, *, name: str = "", buyer: Buyer | None = None) -> Guarantee:
        """Write a guarantee down and begin; it is on disk when this returns. See `Customer.hire`.

        `name`: the same name is the same guarantee, in every process. Raises `BadRequest`, `NoAgentFound`,
        `SignerUnavailable`, and what `buyer.check` raises.
        """
        guarantee_id = guarantee_id_of(self._signer.public_key, name) if name else secrets.token_hex(32)
        if name and await queries.get_guarantee(self._post.db, guarantee_id):
            return self._go_on(guarantee_id)
        wanted, now = task.wanted, self._post.clock.now()
        wanted.check()
        candidates = await look_for(task, self._post, self._signer.public_key)
        if not any(candidate.is_within(wanted.max_sat) for candidate in candidates):
            raise NoAgentFound(nobody_for(task, self._post, candidates))
        row = GuaranteeRow(
            id=guarantee_id, customer=self._signer.public_key, state=GuaranteeState.OPEN,
            task=await self._written(task), private=wanted.private, max_sat=wanted.max_sat,
            deadline_at=now + wanted.seconds_max, allowance=buyer.allowance if buyer else None,
            job_id=buyer.job_id if buyer else None, order_id=None, reason="", created_at=now, updated_at=now,
        )  # fmt: skip
        async with self._post.db.transaction() as tx:
            if await queries.insert_guarantee(tx, row) and buyer:
                await buyer.check(tx, row.id, wanted.max_sat)
        return self._go_on(row.id, candidates)

    async def drop(self, tx: Transaction, allowance: str, job_id: str) -> None:
        """End those for a job of an agent of ours in `tx`, which ends that; then take back what is asked of others."""
        for guarantee_id in await queries.drop_guarantees(tx, allowance, job_id, self._post.clock.now()):
            self._wake(tx, guarantee_id)

    async def call_off(self, guarantee_id: str) -> bool:
        """End one that is open, then take back what is asked; False if it has ended."""
        failed, now = GuaranteeState.FAILED, self._post.clock.now()
        async with self._post.db.transaction() as tx:
            self._wake(tx, guarantee_id)
            return await queries.end_guarantee(tx, guarantee_id, failed, now=now, reason=CALLED_OFF)

    def _wake(self, tx: Transaction, guarantee_id: str) -> None:
        if changed := self._changed.get(guarantee_id):
            tx.after_commit(changed.set)

    def _go_on(self, guarantee_id: str, candidates: Sequence[Candidate] = ()) -> Guarantee:
        """Drive it, unless it is driven already. Without `candidates` it is one of an earlier process."""
        if guarantee_id not in self._handles:
            self._handles[guarantee_id] = Guarantee(guarantee_id)
            self._changed[guarantee_id] = asyncio.Event()
            self._tasks.start(self._drive(guarantee_id, candidates), f"guarantee:{guarantee_id}")
        return self._handles[guarantee_id]

    # One guarantee ------------------------------------------------------------------------------------------------

    async def _drive(self, guarantee_id: str, candidates: Sequence[Candidate]) -> None:
        row = await queries.get_guarantee(self._post.db, guarantee_id)
        assert row is not None
        if row.state is GuaranteeState.OPEN:
            if not candidates:  # what was sent while nobody listened comes before any judgement
                await self._catch_up(CATCH_UP_SECONDS_MAX)
            row = await self._bring_to_end(row, candidates)
        await self._until_done(row, self._tell_end)
        await self._until_done(row, self._tidy)
        del self._handles[guarantee_id], self._changed[guarantee_id]

    async def _until_done(self, row: GuaranteeRow, step: Callable[[GuaranteeRow], Awaitable[None]]) -> None:
        """What comes after the end, again and again: whoever waits is not left waiting because a disk was full."""
        while True:
            try:
                return await step(row)
            except SignerUnavailable as error:
                log.warning("guarantee_waits", guarantee=row.id, reason=str(error))
            except Exception:
                log.exception("guarantee_failed", guarantee=row.id)
            await self._post.clock.sleep(RETRY_SECONDS)

    async def _bring_to_end(self, row: GuaranteeRow, candidates: Sequence[Candidate]) -> GuaranteeRow:
        run: _Run | None = None
        changed = self._changed[row.id]
        while True:
            changed.clear()  # before anything is read: what changes from here on is seen in the next step
            row = await queries.get_guarantee(self._post.db, row.id) or row
            if row.state is not GuaranteeState.OPEN:
                return row
            try:
                now = self._post.clock.now()
                run = run or _Run(row, await self._read(row), candidates, looked_at=now, since=now)
                await self._step(run)
            except (SignerUnavailable, RelayBridgeError, NoAgentFound) as error:  # nobody can be reached
                log.warning("guarantee_waits", guarantee=row.id, reason=str(error))
                await self._post.clock.sleep(RETRY_SECONDS)
            except (BadRequest, IdentityError, msgspec.MsgspecError) as error:  # it cannot be asked, or read
                await self._end(row, GuaranteeState.FAILED, reason=str(error))
            except Exception:  # a full disk, say; whoever waits for the end is not left waiting for ever
                log.exception("guarantee_failed", guarantee=row.id)
                await self._post.clock.sleep(RETRY_SECONDS)

    async def _step(self, run: _Run) -> None:
        orders = await queries.orders_of(self._post.db, run.row.id)
        for order in orders:
            if not order.state.is_final:
                self._follow(run, self._book.handle(order))
        now = self._post.clock.now()
        step = decide_guarantee(
            [_attempt(order, run.since) for order in orders], max_sat=run.row.max_sat, deadline_at=run.row.deadline_at,
            now=now, nobody=run.nobody,
        )  # fmt: skip
        match step:
            case Wait(until=until):
                with suppress(TimeoutError):
                    await within(self._post.clock, max(until - now, 0.05), self._changed[run.row.id].wait())
            case Ask(sat=sat):
                await self._ask(run, orders, sat)
            case GiveUp(order_id=order_id, sat=sat):
                if await self._next(run, orders, sat):
                    silent = next(order for order in orders if order.id == order_id)
                    await self._book.take_back(silent, GivenUp(SILENT), self._signer, as_seen=True)
            case Deliver(order_id=order_id):
                await self._end(run.row, GuaranteeState.DONE, order_id=order_id)
            case Fail():
                await self._end(run.row, GuaranteeState.FAILED, reason=_why(orders))

    async def _ask(self, run: _Run, orders: Sequence[OrderRow], sat: int) -> None:
        """Make the next order; the transaction makes sure that all of them stay within the budget."""
        free = await self._next(run, orders, sat)
        left_seconds = run.row.deadline_at - self._post.clock.now()
        if not free or left_seconds <= 0:
            return
        others = len(free) > 1 and len(orders) + 1 < TRIES_MAX
        wanted = replace(
            run.task.wanted, target=free[0].target, max_sat=free[0].bid_sat(sat, others=others),
            seconds_max=share_seconds(left_seconds, others=others), settle=run.task.settle_with(free[0].public_key),
        )  # fmt: skip

        async def attach(tx: Transaction, order_id: str) -> None:
            if not await queries.attach_order(tx, run.row.id, order_id, self._post.clock.now()):
                raise Overtaken

        try:
            order = await self._asking.place(wanted, attach)
        except Overtaken:  # it was cancelled, or a late result came, while we looked for somebody
            await self._post.clock.sleep(0)
            return
        ended = [_told(order) for order in orders if order.id not in run.told]
        run.told.update(order.id for order in orders)
        message = "; ".join([*ended, f"asking {_short(order.provider)}" if ended else _short(order.provider)])
        self._handles[run.row.id].push(Update("asking", message, order_id=order.id))
        self._follow(run, order)

    async def _next(self, run: _Run, orders: Sequence[OrderRow], sat: int) -> list[Candidate]:
        """Who may be asked next, the best first; if there is nobody, the run remembers that for a while."""
        if not run.candidates or run.looked_at + LOOK_AGAIN_SECONDS <= self._post.clock.now():
            run.candidates = await look_for(run.task, self._post, self._signer.public_key)
            run.looked_at = self._post.clock.now()
        tried = {order.provider for order in orders}
        free = [c for c in run.candidates if c.public_key not in tried and c.is_within(sat)]
        until = run.looked_at + LOOK_AGAIN_SECONDS
        run.nobody = None if free else Nobody(sat, until, certain=self._all_were_asked(run))
        return free

    def _all_were_asked(self, run: _Run) -> bool:
        """Whether no relay is away that may be back in a moment."""
        health, now = self._post.pool.health(), self._post.clock.now()
        away = [health[url] for url in self._post.pool.urls if url in health and not health[url].connected]
        return all(now - max(relay.since, run.since) > AWAY_SECONDS for relay in away)

    # What is told of it -------------------------------------------------------------------------------------------

    def _follow(self, run: _Run, order: Order) -> None:
        """Pass the updates of an order on."""
        if order.id not in run.followed:
            run.followed.add(order.id)
            self._tasks.start(_forward(order, self._handles[run.row.id]), f"forward:{order.id}")

    async def _end(
        self, row: GuaranteeRow, state: GuaranteeState, *, order_id: str | None = None, reason: str = ""
    ) -> None:
        now = self._post.clock.now()
        async with self._post.db.transaction() as tx:
            await queries.end_guarantee(tx, row.id, state, now=now, order_id=order_id, reason=reason)

    async def _tell_end(self, row: GuaranteeRow) -> None:
        handle = self._handles[row.id]
        orders = await queries.orders_of(self._post.db, row.id)
        done = (order for order in orders if order.id == row.order_id or order.state is OrderState.DONE)
        if (order := next(done, None)) is not None:  # one may have come after the end: then it was paid for
            handle.finish(await self._book.text(order) or "", order_id=order.id)
        else:
            action = Action.RETRY_AFTER
            handle.end(
                OrderFailed(
                    row.reason,
                    state=row.state,
                    money=_money(orders),
                    action=action,
                    code=trouble_of(row, orders),
                )
            )

    async def _tidy(self, row: GuaranteeRow) -> None:
        """Once there is a result, or none is needed, take back what is asked of others."""
        if row.state is GuaranteeState.DONE:
            why = QUICKER
        elif row.reason in (DROPPED, CALLED_OFF):
            why = row.reason
        else:
            return
        changed = self._changed[row.id]
        while True:
            changed.clear()
            orders = await queries.orders_of(self._post.db, row.id)
            open_orders = [order for order in orders if order.state in _AT_WORK]
            if not open_orders:
                return
            for order in open_orders:  # one that is being paid has no such step yet
                await self._book.take_back(order, GivenUp(why), self._signer)
            if any(order.state is OrderState.PAYING for order in open_orders):
                await changed.wait()

    # What is on disk ----------------------------------------------------------------------------------------------

    async def _written(self, task: Task) -> str:
        text = msgspec.json.encode(task).decode()
        if task.wanted.private:  # what nobody else may read is not on our disk either
            return await self._signer.nip44_encrypt(self._signer.public_key, text)
        return text

    async def _read(self, row: GuaranteeRow) -> Task:
        text = await self._signer.nip44_decrypt(row.customer, row.task) if row.private else row.task
        return msgspec.json.decode(text, type=Task)


async def _forward(order: Order, guarantee: Guarantee) -> None:
    async for update in order:
        if update.step not in ("result", "error", "refunded"):  # of these the guarantee makes its own
            guarantee.push(replace(update, order_id=order.id))


def _attempt(order: OrderRow, since: int) -> Attempt:
    return Attempt(
        order_id=order.id, state=order.state, max_sat=order.max_sat, price_sat=order.price_sat,
        heard=order.heard_in == order.state, since=max(order.updated_at, since), deadline_at=order.deadline_at,
        paid_sat=order.paid_sat, returned_sat=order.returned_sat,
    )  # fmt: skip


def _short(public_key: str) -> str:
    return f"{encode_npub(public_key)[:12]}…"


def _told(order: OrderRow) -> str:
    """Why an order brought no result, and where its money is."""
    match order.state:
        case OrderState.REFUNDED:
            money = f", {order.price_sat} sat taken back"
        case OrderState.AWAITING_REFUND:
            money = f", {order.price_sat} sat still locked"
        case OrderState.LOST:
            money = f", {order.price_sat} sat lost"
        case _:
            money = ""
    return f"{_short(order.provider)}: {order.reason}{money}"


def _why(orders: Sequence[OrderRow]) -> str:
    if not orders:
        return "no agent could be asked in time"
    return f"no result from {len(orders)} agent{'s' * (len(orders) > 1)}: " + "; ".join(map(_told, orders))


def trouble_of(row: GuaranteeRow, orders: Sequence[OrderRow]) -> str:
    """What kind of trouble it was, if all who were asked had the same."""
    if row.reason in ("cancelled", CALLED_OFF, DROPPED):
        return Trouble.CANCELLED
    if not orders:
        return NoAgentFound.code
    codes = {order.code for order in orders}
    return codes.pop() if len(codes) == 1 else Trouble.NO_RESULT


def _money(orders: Sequence[OrderRow]) -> str:
    """Where the money of a guarantee without a result is, in words."""

    def sum_of(*states: OrderState) -> int:
        return sum(order.price_sat for order in orders if order.state in states)

    locked_sat = sum_of(OrderState.PAYING, OrderState.PAID, OrderState.AWAITING_REFUND)
    parts = [
        (sum_of(OrderState.LOST), "are lost"),
        (locked_sat, "are still locked, `tradepost settle` takes back what is due"),
        (sum_of(OrderState.REFUNDED), "came back, less the mint's fee"),
    ]
    return ", ".join(f"{sat} sat {what}" for sat, what in parts if sat) or "nothing was paid"
