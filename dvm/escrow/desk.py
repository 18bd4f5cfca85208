"""What all parties of an escrow do alike: write to each other, wait for deadlines, sign, and claim.

A letter is written in the transaction of the decision that sends it, so a restart sends it again or never wanted it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any, ClassVar, Final

import structlog

from dvm import queries_wishes
from dvm.errors import BadRequest
from dvm.escrow.agreement import award_of, is_ruling
from dvm.escrow.messages import (
    Accepts,
    Answers,
    AsksBack,
    Delivered,
    Disputes,
    EscrowMessage,
    Reveals,
    Ruled,
    Signs,
    Wishes,
    Yields,
    read_message,
    write_message,
)
from dvm.post import Post
from identity import Event, Rumor, SecretKey, Signer, parse_event
from identity.nip59 import wrap
from relay_bridge import Delivery, usable_relays
from store import Also, Transaction
from wallet import WalletError
from wallet.escrow import Decision, Effect, EscrowInput, Gone, Role, SignaturesCame, Stage, Tick
from wallet.escrows import Change, Escrows
from wallet.keyring import HTLC_NUT
from wallet.queries_escrows import EscrowRow
from wallet.terms import MARGIN_SECONDS, Method, Terms

log = structlog.get_logger(__name__)

Letter = tuple[str, EscrowMessage]  # to whom
LOOK_AGAIN_SECONDS: Final = 60
LOOK_AGAIN_SECONDS_MAX: Final = 86_400
RETRY_SECONDS: Final = 15
UNPROBED_SAT_MAX: Final = 1_000  # what is risked with a mint whose locks we could not try for want of coins


class Overtaken(Exception):  # noqa: N818 - it says what happened; no error
    """Somebody else changed the escrow between the reading and the writing."""


class EscrowDesk(ABC):
    """The escrows of one party in one role."""

    role: ClassVar[Role]

    def __init__(self, post: Post, signer: Signer) -> None:
        self._post = post
        self._signer = signer
        self.escrows = Escrows(post.db, post.wallet, post.clock)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._claiming: set[str] = set()

    # For each role to say -------------------------------------------------------------------------------------

    @abstractmethod
    def key(self, row: EscrowRow) -> SecretKey:
        """Our one-job key in it."""

    async def secrets(self, row: EscrowRow) -> list[tuple[str, int]]:
        """The coins' secrets and amounts."""
        return [(proof.secret, proof.amount) for proof in (await self.escrows.coins(row)).proofs]

    def ending(self, row: EscrowRow, stage: Stage) -> Also | None:  # noqa: ARG002 - for those who have more to write
        """What else is written when an escrow comes to its end."""
        return None

    @abstractmethod
    async def hears(self, row: EscrowRow, sender: str, message: EscrowMessage, delivery: Delivery) -> None:
        """What this role alone is told. What is not for it changes nothing."""

    @abstractmethod
    async def wish(self, request_id: str, wish: Wishes, *, also: Also | None = None) -> EscrowRow:
        """Do what our owner wants. Raises `BadRequest` if it cannot be done where the escrow stands, or at all."""

    # Life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Go on with what an earlier process left."""
        for row in await self.escrows.open(self.role, self._signer.public_key):
            self.watch(row.request_id)

    async def stop(self) -> None:
        """Stop waiting; all of it is in the store."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until nothing is waited for any more, which may take days."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()), return_when=asyncio.FIRST_COMPLETED)

    async def get(self, request_id: str) -> EscrowRow | None:
        """Our view of one, None if we have no part in it."""
        return await self.escrows.get(self.role, self._signer.public_key, request_id)

    async def doubts(self, terms: Terms) -> str:
        """Why nobody should rely on these terms' mint or on our clock; empty if there is no reason not to."""
        if why_not := await self.doubts_of_time(terms.mint):
            return why_not
        try:
            enforced = await self._post.wallet.enforces(terms.mint)
            if enforced.checked_at is None:
                return await self._doubts_unprobed(terms)
        except WalletError as error:
            return str(error)
        if (enforced.htlc if terms.method is Method.REVEAL else enforced.multisig) and enforced.refund:
            return ""
        return f"{terms.mint} does not enforce the locks of an escrow"

    async def _doubts_unprobed(self, terms: Terms) -> str:
        if terms.price_sat > UNPROBED_SAT_MAX:
            return f"{terms.mint} was not probed yet, and above {UNPROBED_SAT_MAX} sat it must be"
        if terms.method is Method.REVEAL:
            info = await self._post.wallet.mint_info(terms.mint)
            if not info.supports(HTLC_NUT):
                return f"{terms.mint} does not announce that it can lock coins to a hash (NUT-14)"
        return ""

    async def doubts_of_time(self, mint: str) -> str:
        """Why our clock may not be the mint's, by which all deadlines are; empty if it is, within half a margin."""
        try:
            offset_seconds = await self._post.wallet.clock_offset(mint)
        except WalletError as error:
            return str(error)
        if abs(offset_seconds) <= MARGIN_SECONDS // 2:
            return ""
        return f"the clock of {mint} is {offset_seconds} s ahead of ours: set this machine's clock"

    async def probe(self) -> None:
        """Find out what our mints enforce, as far as there are some sats for it."""
        for mint in self._post.wallet.mints:
            try:
                await self._post.wallet.probe(mint)
            except WalletError as error:
                log.info("mint_not_probed", mint=mint, reason=str(error))

    async def happens(
        self,
        request_id: str,
        event: EscrowInput,
        *,
        also: Also | None = None,
        change: Change | None = None,
        **columns: Any,
    ) -> EscrowRow | None:
        """Let `event` happen: stage, columns, letters and `also` in one transaction. None if it changes nothing.

        `change`: see `Escrows.apply`.
        """

        async def prepare(row: EscrowRow, decision: Decision) -> Also:
            return await self._writes(row, decision, also)

        key = (self.role, self._signer.public_key, request_id)
        applied = await self.escrows.apply(key, event, prepare=prepare, change=change, **columns)
        if applied is None:
            return None
        row, decision = applied
        log.info("escrow", role=self.role, request=request_id, stage=row.stage, then=decision.then)
        self.watch(request_id)
        return row

    async def wished(
        self, request_id: str, event: EscrowInput, *, also: Also | None = None, change: Change | None = None
    ) -> EscrowRow:
        """As `happens`, because our owner wants it. Raises `BadRequest` if it changes nothing."""
        done = await self.happens(request_id, event, also=also, change=change)
        if done is not None:
            return done
        row = await self.get(request_id)
        if row is None:
            raise BadRequest(
                f"no escrow of ours has the id {request_id[:64]!r}; `tradepost escrow list` shows all"
            )
        raise BadRequest(
            f"the escrow is {row.stage}: that is not possible any more, or not yet; `tradepost escrow show "
            f"{row.request_id[:12]}` tells its deadlines"
        )

    async def writes(self, request_id: str, event: EscrowInput, **columns: Any) -> Also | None:
        """As `happens`, as part of a transaction of the caller's. None if the escrow knows no such step.

        What is returned raises `Overtaken` if the escrow was changed meanwhile: ask again then.
        """
        row = await self.get(request_id)
        decision = None if row is None else self.escrows.decide(row, event, **columns)
        if row is None or decision is None:
            return None
        more = await self._writes(replace(row, **columns), decision, None)

        async def write(tx: Transaction) -> None:
            if await self.escrows.write(tx, row, event, **columns) is None:
                raise Overtaken
            await more(tx)
            tx.after_commit(lambda: self.watch(request_id))

        return write

    def watch(self, request_id: str) -> None:
        """See to an escrow when its time comes; anew after each change."""
        old = self._tasks.get(request_id)
        if old is not None:
            if old is asyncio.current_task() or request_id in self._claiming:
                return  # it looks again by itself
            old.cancel()
        task = asyncio.create_task(self._follow(request_id), name=f"escrow:{request_id}")
        self._tasks[request_id] = task
        task.add_done_callback(lambda done: self._ended(request_id, done))

    # What comes in -------------------------------------------------------------------------------------------

    async def receive(self, rumor: Rumor, delivery: Delivery) -> None:
        """A message about an escrow. What is malformed, of nobody in it or out of its time changes nothing."""
        try:
            request_id, message = read_message(rumor)
        except BadRequest as error:
            log.info("escrow_message_ignored", wrap=delivery.event.id, reason=str(error))
            return
        row = await self.get(request_id)
        if row is None:
            return
        if isinstance(message, Wishes):
            await self._on_wish(row, rumor.pubkey, message, delivery)
        elif isinstance(message, Ruled):
            await self._on_ruling(row, rumor.pubkey, message)
        elif isinstance(message, Signs):
            await self._on_signatures(row, rumor.pubkey, message, delivery)
        else:
            await self.hears(row, rumor.pubkey, message, delivery)

    async def _on_wish(self, row: EscrowRow, sender: str, message: Wishes, delivery: Delivery) -> None:
        if sender != self._signer.public_key:
            return

        async def answered(tx: Transaction, refused: str = "") -> None:
            await delivery.done(tx)
            now = self._post.clock.now()
            await queries_wishes.answer(tx, delivery.event.id, refused, now=now)

        try:
            await self.wish(row.request_id, message, also=answered)
        except (BadRequest, WalletError) as error:  # a mint that is away
            log.warning("escrow_wish_refused", request=row.request_id, reason=str(error))
            async with (
                self._post.db.transaction() as tx
            ):  # refused for good: nobody expects it to be done later
                await answered(tx, str(error))
        else:
            log.info("escrow_wish", request=row.request_id, action=message.action)

    async def _on_signatures(self, row: EscrowRow, sender: str, message: Signs, delivery: Delivery) -> None:
        """Somebody signs coins over to us: all of them, or those that the arbiter awards us."""
        terms = row.terms
        keys = {
            terms.customer: (Role.CUSTOMER, terms.customer_key),
            terms.provider: (Role.PROVIDER, terms.provider_key),
            terms.arbiter: (Role.ARBITER, terms.arbiter_key),
        }
        by, key = keys.get(sender, (self.role, None))
        event = SignaturesCame(by)
        has_coins = row.stage.is_locked or self.escrows.decide(row, event) is not None
        if by is self.role or key is None or not has_coins:
            return
        ours = {secret for secret, _ in await self.secrets(row)}
        named = {secret: sig for secret, sig in message.signatures.items() if secret in ours}
        given = self.escrows.genuine(named, key)
        if by is not Role.ARBITER and given.keys() != ours:
            log.info("escrow_message_ignored", request=row.request_id, reason="it does not sign all coins")
        elif by is not Role.ARBITER and (merged := self.escrows.merge(row, given)) is not None:
            reason = "the agent gave the money back" if by is Role.PROVIDER else row.reason
            await self.happens(row.request_id, event, also=delivery.done, signatures=merged, reason=reason)
        elif by is Role.ARBITER:  # used when we have asked for them, and have all that it awards us
            await self.escrows.note(row.key, lambda now: _signatures(self.escrows.merge(now, given)))
            self.watch(row.request_id)

    async def _on_ruling(self, row: EscrowRow, sender: str, message: Ruled) -> None:
        """The arbiter ruled. What it awards us comes with its signatures; that the rest is gone, the mint tells."""
        has_coins = row.stage.is_locked or row.stage is Stage.CLAIMING or self._may_be_awarded(row)
        if sender == row.terms.arbiter and is_ruling(message.ruling, row.terms) and has_coins:
            ruling = message.ruling.to_json().decode()
            due = {"ruling": ruling, "reason": "the arbiter ruled", "wake_at": self._post.clock.now()}
            await self.escrows.note(row.key, lambda _row: due)
            self.watch(row.request_id)

    async def due(self, row: EscrowRow) -> tuple[EscrowInput, dict[str, Any]] | None:
        """What was noted with an escrow and can happen now, with the columns for it; None if there is nothing."""
        if not await self._has_been_awarded(row):
            return None
        # Without a ruling the other party gave in, and the arbiter's word of it came before its own.
        return SignaturesCame(Role.ARBITER), {} if row.ruling else {"reason": "the arbiter signed for it"}

    async def _has_been_awarded(self, row: EscrowRow) -> bool:
        """Whether the arbiter's signatures that were kept are of use. What we gave away only a ruling takes back."""
        may_use_them = self._may_be_awarded(row) and (row.stage is not Stage.CONCEDED or row.ruling)
        return bool(may_use_them and row.signatures and await self._is_all(row, row.signatures))

    def _may_be_awarded(self, row: EscrowRow) -> bool:
        return self.escrows.decide(row, SignaturesCame(Role.ARBITER)) is not None

    async def _is_all(self, row: EscrowRow, signatures: Iterable[str]) -> bool:
        """Whether these signatures are all that we have to expect: for each coin, or for what a ruling awards us.

        With fewer we would take a few coins, end, and never get the others.
        """
        coins, signed = await self.secrets(row), set(signatures)
        signed_sat = sum(sat for secret, sat in coins if secret in signed)
        award_sat = award_of(parse_event(row.ruling), self.role) if row.ruling else 0
        return signed_sat >= (award_sat or sum(sat for _, sat in coins))

    # What goes out -------------------------------------------------------------------------------------------

    async def letters(self, row: EscrowRow, then: Effect) -> list[Letter]:
        """What a decision makes us write. Signatures go to their beneficiary only: another holder could use them."""
        terms, coins = row.terms, await self._coins_for(row, then)
        arbiter = terms.arbiter or ""
        own = [one["text"] for one in row.statements if one["by"] == self.role]
        statement = (
            own[-1] if own else f"I delivered what was asked for: event {row.result and row.result.id}."
        )
        match then:
            case Effect.SIGN_FOR_PROVIDER:
                was_asked = self.role is Role.CUSTOMER and row.stage in (Stage.OVERDUE, Stage.DISPUTED)
                relents: list[Letter] = [(arbiter, Accepts())] if was_asked else []
                return [(terms.provider, Signs(self._sign(row, coins))), *relents]
            case Effect.SIGN_FOR_CUSTOMER:
                yields: list[Letter] = [(arbiter, Yields())] if self.role is Role.PROVIDER else []
                return [(terms.customer, Signs(self._sign(row, coins))), *yields]
            case Effect.REPORT if row.result is not None:
                return [(arbiter, Delivered(row.result.id, self._relays(row), coins))]
            case Effect.REDELIVER if row.result is not None:
                return [(terms.customer, Delivered(row.result.id, self._relays(row)))]
            case Effect.ASK_BACK:
                return [(arbiter, AsksBack(coins))]
            case Effect.DISPUTE:
                return [(arbiter, Disputes(statement, coins)), (terms.provider, Disputes(statement))]
            case Effect.ANSWER:
                return [(arbiter, Answers(statement)), (terms.customer, Answers(statement))]
            case Effect.TELL_KEY if row.preimage is not None:
                return [(terms.customer, Reveals(row.preimage))]
        return []

    async def send(self, tx: Transaction, row: EscrowRow, events: Iterable[Event]) -> None:
        """Put letters into the outbox, for the relays of all parties, and for where the recipient takes messages."""
        urls, until = self._relays(row), row.terms.locktime
        for event in events:
            await self._post.mailboxes.send(tx, event, event.tag("p") or "", urls, until=until)

    def _relays(self, row: EscrowRow) -> list[str]:
        """The arbiter's, the customer's and ours in turn: no party's list crowds out another's."""
        wanted = [url for tag in row.request.tags_named("relays") for url in tag[1:]]
        turns = zip_longest(row.terms.arbiter_relays, wanted, self._post.pool.urls, fillvalue="")
        return [*usable_relays(chain.from_iterable(turns))]

    async def seal(self, row: EscrowRow, letters: Iterable[Letter]) -> list[Event]:
        """The gift wraps of letters."""
        now = self._post.clock.now()
        return [
            await wrap(self._signer, recipient, write_message(message, row.terms, recipient, now), now=now)
            for recipient, message in letters
        ]

    async def _writes(self, row: EscrowRow, decision: Decision, also: Also | None) -> Also:
        events = await self.seal(row, await self.letters(row, decision.then))
        ending = self.ending(row, decision.stage) if decision.stage.is_final else None

        async def write(tx: Transaction) -> None:
            await self.send(tx, row, events)
            for more in (also, ending):
                if more is not None:
                    await more(tx)

        return write

    async def _coins_for(self, row: EscrowRow, then: Effect) -> list[tuple[str, int]]:
        needs = (
            Effect.SIGN_FOR_PROVIDER, Effect.SIGN_FOR_CUSTOMER, Effect.REPORT, Effect.ASK_BACK, Effect.DISPUTE,
        )  # fmt: skip
        return await self.secrets(row) if then in needs else []

    def _sign(self, row: EscrowRow, coins: Iterable[tuple[str, int]]) -> dict[str, str]:
        return self.escrows.sign((secret for secret, _ in coins), self.key(row))

    # Time ----------------------------------------------------------------------------------------------------

    async def _follow(self, request_id: str) -> None:
        while (row := await self.get(request_id)) is not None and not row.stage.is_final:
            if row.stage is Stage.CLAIMING:
                await self._try(self._claim, row, RETRY_SECONDS)
                continue
            if await self.due(row) is not None:
                await self._try(self._do_due, row, RETRY_SECONDS)
                continue
            if row.wake_at is None:
                return
            left_seconds = row.wake_at - self._post.clock.now()
            if left_seconds > 0:
                await self._post.clock.sleep(left_seconds)
            else:
                # Coins that nobody has taken yet may stay so for ever: ask less and less often.
                wait_seconds = max(LOOK_AGAIN_SECONDS, min(-left_seconds // 4, LOOK_AGAIN_SECONDS_MAX))
                await self._try(self._tick, row, wait_seconds)

    async def _do_due(self, row: EscrowRow) -> bool:
        event, columns = await self.due(row) or (None, {})
        return event is not None and await self.happens(row.request_id, event, **columns) is not None

    async def _claim(self, row: EscrowRow) -> bool:
        self._claiming.add(row.request_id)
        try:
            ended = await self.escrows.claim(row, self.key(row), also=lambda r, d: self._writes(r, d, None))
        finally:
            self._claiming.discard(row.request_id)
        log.info("escrow", role=self.role, request=row.request_id, stage=ended.stage, sat=ended.amount_sat)
        return True

    async def _tick(self, row: EscrowRow) -> bool:
        if await self.happens(row.request_id, Tick()) is not None:
            return True
        # After the locktime, a ruling, our giving in: has somebody taken the coins?
        is_over = row.ruling is not None or row.stage is Stage.CONCEDED
        is_open = not is_over and self._post.clock.now() <= row.terms.locktime
        if is_open or not await self.escrows.gone(row):
            return False
        by_right = await self.escrows.went_by_right(row)
        return await self.happens(row.request_id, Gone(by_right)) is not None

    async def _try(
        self, step: Callable[[EscrowRow], Awaitable[bool]], row: EscrowRow, wait_seconds: int
    ) -> None:
        try:
            if await step(row):
                return
        except WalletError as error:  # the mint is down, or its clock is behind ours
            log.info("escrow_later", role=self.role, reason=str(error))
        await self._post.clock.sleep(wait_seconds)

    def _ended(self, request_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(request_id) is task:
            del self._tasks[request_id]
        if not task.cancelled() and (error := task.exception()):
            log.error("task_failed", task=task.get_name(), exc_info=error)


def _signatures(merged: dict[str, list[str]] | None) -> dict[str, Any] | None:
    return None if merged is None else {"signatures": merged}
