"""The two parties of an escrow that trade: what each alone is told, and what it alone does."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar, Final

import msgspec
import structlog

from dvm import queries
from dvm.errors import BadRequest, JobFailed
from dvm.escrow.agreement import Agreement, Signed, check_acceptance
from dvm.escrow.desk import EscrowDesk
from dvm.escrow.messages import (
    COINS_MAX,
    Answers,
    Declines,
    Delivered,
    Disputes,
    EscrowMessage,
    Reveals,
    Serve,
    Serves,
    Wishes,
)
from dvm.escrow.results import ResultSearch, report_of
from dvm.jobs.lifecycle import PaymentState
from dvm.limits import ProviderLimits
from dvm.nip90 import EscrowOffer, JobRequest, Offer
from dvm.orders.lifecycle import OrderState
from dvm.post import Post
from dvm.reveals import end_sale
from identity import Event, SecretKey, Signer
from relay_bridge import Delivery
from store import Also, Transaction
from wallet import (
    Action,
    AlreadySpent,
    Token,
    WalletError,
    is_preimage,
    queries_escrows,
)
from wallet.errors import WrongTerms
from wallet.escrow import (
    Accepted,
    Answered,
    Contested,
    Funded,
    GivesBack,
    Gone,
    NotFunded,
    ResultOut,
    Role,
    Served,
    Stage,
)
from wallet.escrows import claim_id
from wallet.ledger import escrow_account, post_gone, settle
from wallet.queries_escrows import EscrowRow
from wallet.terms import MARGIN_SECONDS, Method, Terms, check_agreement

log = structlog.get_logger(__name__)

DELIVER_SECONDS_MIN: Final = 30
UNPAID: Final = (OrderState.FAILED, OrderState.EXPIRED)  # the order of a hearing ended so, and cost nothing
LOOK_FOR_KEY_SECONDS: Final = 15
STATEMENTS_MAX: Final = 10  # of each party
STATEMENT_BYTES_MAX: Final = (
    4_000  # with the coins beside it, wrapped twice, a letter is a third of what relays take
)


def provider_key(post: Post, party: str, request_id: str) -> SecretKey:
    """A provider's one-job key."""
    return post.seed.job_key("provider", party, request_id)


def escrow_offer(row: EscrowRow) -> EscrowOffer:
    """What an offer says of an escrow that its arbiter has signed."""
    terms, signed = row.terms, msgspec.json.decode(row.acceptance or "", type=Signed)
    return EscrowOffer(
        terms.arbiter or "", terms.arbiter_key or "", signed.created_at, signed.sig,
        1000 * terms.arbiter_fee_sat, terms.deliver_by, terms.review_seconds, terms.dispute_seconds,
        terms.arbiter_relays,
    )  # fmt: skip


def said(row: EscrowRow, who: str, text: str) -> tuple[dict[str, str], ...]:
    """The row's statements with one more; whoever says too much pushes out its own words only."""
    own = [number for number, one in enumerate(row.statements) if one["by"] == who]
    too_old = own[: max(0, len(own) + 1 - STATEMENTS_MAX)]
    kept = (one for number, one in enumerate(row.statements) if number not in too_old)
    return (*kept, {"by": who, "text": text})


class ProviderDesk(EscrowDesk):
    """Escrows of an agent's jobs. `arranged(id)` is called with an arbiter's answer, `paid(customer)` when one pays."""

    role: ClassVar[Role] = Role.PROVIDER

    def __init__(
        self,
        post: Post,
        signer: Signer,
        limits: ProviderLimits,
        *,
        arranged: Callable[[str], Awaitable[None]],
        paid: Callable[[str], None],
    ) -> None:
        super().__init__(post, signer)
        self.limits = limits
        self._arranged = arranged
        self._paid = paid

    def key(self, row: EscrowRow) -> SecretKey:
        """See `EscrowDesk.key`."""
        return provider_key(self._post, row.party, row.request_id)

    async def proposal(self, request: JobRequest, price_sat: int) -> Terms | None:
        """The terms we would serve a request under; None if it asks for no escrow that we can give."""
        now, limits = self._post.clock.now(), self.limits
        arbiters = [key for key in request.arbiters if key in limits.arbiters]
        roomy = await self._post.wallet.mints_with_room(price_sat)
        mints = [mint for mint in request.mints if mint in roomy]
        deliver_by = request.expires_at or now + limits.offer_seconds + limits.job_seconds_max
        if Method.ESCROW not in request.settle or not (arbiters and mints and request.lock):
            return None
        if request.private:
            return None  # the arbiter could not read what was asked
        if deliver_by < now + DELIVER_SECONDS_MIN:
            return None
        terms = Terms(
            method=Method.ESCROW, request_id=request.id, mint=mints[0], price_sat=price_sat,
            provider=self._signer.public_key, customer=request.customer, customer_key=request.lock,
            provider_key=provider_key(self._post, self._signer.public_key, request.id).compressed_public_key,
            deliver_by=deliver_by, review_seconds=limits.review_seconds, dispute_seconds=limits.dispute_seconds,
            locktime=deliver_by + limits.review_seconds + limits.dispute_seconds + 3 * MARGIN_SECONDS,
            arbiter=arbiters[0],
        )  # fmt: skip
        if terms.arbiter in (terms.provider, terms.customer):
            return None
        if why_not := await self.doubts(terms):
            log.warning("escrow_not_offered", request=request.id, reason=why_not)
            return None
        return terms

    async def propose(self, terms: Terms, request: Event) -> Also:
        """What to write, with the job, in order to ask the arbiter."""
        letter = Serve(
            request, terms.provider_key, terms.customer_key, terms.mint, terms.price_sat, terms.deliver_by,
            terms.review_seconds, terms.dispute_seconds, terms.locktime,
        )  # fmt: skip
        row = self.escrows.new(self.role, terms.provider, Stage.PROPOSED, terms, request)
        events = await self.seal(row, [(terms.arbiter or "", letter)])

        async def write(tx: Transaction) -> None:
            await self.escrows.add(tx, row)
            await self.send(tx, row, events)
            tx.after_commit(lambda: self.watch(terms.request_id))

        return write

    def ending(self, row: EscrowRow, stage: Stage) -> Also | None:
        """The payment ends too; what came is the agent's, less the post's cut. See `EscrowDesk.ending`."""
        ended = {Stage.PAID: PaymentState.REDEEMED, Stage.YIELDED: PaymentState.RETURNED}.get(
            stage, PaymentState.REFUSED
        )

        async def write(tx: Transaction) -> None:
            now = self._post.clock.now()
            if row.terms.method is Method.REVEAL:
                await end_sale(tx, row, stage, now)
            for payment in await queries.escrow_payments(tx, row.party, row.request_id, row.token):
                await queries.update_payment(tx, payment, ended, now=now, amount_sat=row.amount_sat)
                if stage is Stage.PAID and row.amount_sat:
                    await settle(
                        tx, payment.id, source_account=escrow_account(row.request_id), agent=row.party,
                        amount_msat=1000 * row.amount_sat, fee_bps=self.limits.fee_bps, now=now,
                        op_id=claim_id(row), job_id=row.request_id,
                    )  # fmt: skip
            if stage is Stage.PAID:
                tx.after_commit(lambda: self._paid(row.terms.customer))

        return write

    async def check_open(self, request_id: str) -> EscrowRow | None:
        """Our view of a job's escrow, before work is put into it. Raises `JobFailed` if it has ended unpaid."""
        row = await self.get(request_id)
        if row is not None and row.stage in (Stage.CONCEDED, Stage.YIELDED, Stage.LOST):
            raise JobFailed("its money is not in escrow any more: nothing would be owed for the work")
        return row

    async def check_coins(self, request_id: str) -> None:
        """Before a result is out, raise `JobFailed` if nothing would be owed for it.

        The coins are gone, or it is late. A mint that is away tells nothing.
        """
        row = await self.check_open(request_id)
        if row is None or row.stage is not Stage.HELD:
            return
        if (
            self._post.clock.now() > row.terms.deliver_by
        ):  # the margin is for the arbiter, which must have seen it
            raise JobFailed("the work took longer than was agreed")
        try:
            if await self.escrows.gone(row):
                raise JobFailed("the coins that were locked for this job are spent already")
        except WalletError as error:
            log.warning("coins_not_checked", request=request_id, reason=str(error))

    async def wish(self, request_id: str, wish: Wishes, *, also: Also | None = None) -> EscrowRow:
        """Let the customer have the money back, or answer its dispute. See `EscrowDesk.wish`."""
        row = await self.get(request_id)
        match wish.action:
            case "give_back":
                return await self.wished(request_id, GivesBack(), also=also)
            case "answer" if row is not None and row.ruling is not None:
                raise BadRequest("the arbiter has ruled: it hears nothing more")
            case "answer":
                text = _statement(wish)
                return await self.wished(
                    request_id, Answered(), also=also,
                    change=lambda now: {"statements": said(now, "provider", text)},
                )  # fmt: skip
        raise BadRequest(f"an agent cannot {wish.action} an escrow")

    async def funded(self, row: EscrowRow, token: Token, text: str) -> Also | None:
        """Check the coins that came for an escrow, before anything relies on them; what to write if they are good.

        None if they come too late. Raises `WalletError` as `Wallet.examine`, and if they are too few.
        """
        terms, now = row.terms, self._post.clock.now()
        if len(token.proofs) > COINS_MAX:
            raise WrongTerms(
                f"an escrow takes {COINS_MAX} coins at most: signatures over more do not fit a message"
            )
        good = await self._post.wallet.examine(token, mint=terms.mint, lock=terms.lock, now=now)
        if good.net_sat < terms.price_sat:
            raise WrongTerms(
                f"the price is {terms.price_sat} sat, only {good.net_sat} sat are locked after the mint's fee; "
                "take them back after their locktime",
                action=Action.TOP_UP,
            )
        write = await self.writes(row.request_id, Funded(), token=text)

        async def write_both(tx: Transaction) -> None:
            assert write is not None
            await write(tx)
            if not await queries_escrows.reserve_coins(tx, row, list(good.ys)):
                raise AlreadySpent("these coins were locked for another job already")

        return None if write is None else write_both

    async def hears(self, row: EscrowRow, sender: str, message: EscrowMessage, delivery: Delivery) -> None:
        """See `EscrowDesk.hears`."""
        match message:
            case Serves() if sender == row.terms.arbiter and row.stage is Stage.PROPOSED:
                await self._on_serves(row, message, delivery)
            case Declines() if sender == row.terms.arbiter and row.stage is Stage.PROPOSED:
                await self.happens(row.request_id, NotFunded(), also=delivery.done, reason=message.reason)
                await self._arranged(row.request_id)
            case Disputes() if sender == row.terms.customer:
                await self.happens(
                    row.request_id, Contested(), also=delivery.done,
                    change=lambda now: {"statements": said(now, "customer", message.reason)},
                )  # fmt: skip
            case _:
                pass

    async def _on_serves(self, row: EscrowRow, message: Serves, delivery: Delivery) -> None:
        terms = replace(
            row.terms, arbiter_key=message.arbiter_key, arbiter_fee_sat=message.fee_sat,
            arbiter_relays=tuple(message.relays),
        )  # fmt: skip
        signed = Signed(message.signed_at, message.sig)
        try:
            check_agreement(terms, self._post.clock.now())
            if not check_acceptance(terms, signed):
                raise WrongTerms("the arbiter's signature is not over these terms")
        except WrongTerms as error:
            await self.happens(row.request_id, NotFunded(), also=delivery.done, reason=str(error))
        else:
            acceptance = msgspec.json.encode(signed).decode()
            await self.happens(
                row.request_id, Served(), also=delivery.done, terms=terms, acceptance=acceptance
            )
        await self._arranged(row.request_id)


class CustomerDesk(EscrowDesk):
    """Escrows of a customer's orders. `delivered(id, event)` is told of a result that the arbiter had to show us,
    `revealed(row)` of the key of a sealed one, `owes_fee(row)` of a dispute whose hearing is to be ordered; `ended(row,
    stage)` says what is to be written with the end of one.
    """

    role: ClassVar[Role] = Role.CUSTOMER

    def __init__(
        self,
        post: Post,
        signer: Signer,
        *,
        delivered: Callable[[str, Event], Awaitable[None]],
        revealed: Callable[[EscrowRow], Awaitable[None]],
        ended: Callable[[EscrowRow, Stage], Also],
        owes_fee: Callable[[EscrowRow], None],
    ) -> None:
        super().__init__(post, signer)
        self._delivered = delivered
        self._search = ResultSearch(post, self.get, wanted=self._is_wanted, found=self._on_seen)
        self._revealed = revealed
        self._ended_with = ended
        self._owes_fee = owes_fee

    async def start(self) -> None:
        """See `EscrowDesk.start`. A hearing whose order ended unpaid, for want of sats say, is ordered anew."""
        for row in await self.escrows.open(self.role, self._signer.public_key):
            fee = await queries.get_order(self._post.db, row.fee_order) if row.fee_order else None
            if row.stage is Stage.DISPUTED and fee is not None and fee.state in UNPAID:
                await self.escrows.note(row.key, lambda _row: {"fee_order": None})
        await super().start()

    def key(self, row: EscrowRow) -> SecretKey:
        """See `EscrowDesk.key`."""
        return self._post.seed.job_key("customer", row.party, row.lock_nonce or "")

    def ending(self, row: EscrowRow, stage: Stage) -> Also | None:
        """See `EscrowDesk.ending`. What was locked and did not come back is what the job cost."""
        ended = self._ended_with(row, stage)

        async def write(tx: Transaction) -> None:
            await post_gone(tx, row.request_id, self._post.clock.now())
            await ended(tx)

        return write

    async def begin(
        self,
        tx: Transaction,
        terms: Terms,
        request: Event,
        *,
        op_id: str,
        lock_nonce: str,
        ciphertext: str | None,
    ) -> None:
        """Write down what we are about to lock coins for."""
        row = self.escrows.new(self.role, terms.customer, Stage.LOCKING, terms, request)
        row = replace(row, op_id=op_id, lock_nonce=lock_nonce, ciphertext=ciphertext)
        await self.escrows.add(tx, row)

    async def wish(self, request_id: str, wish: Wishes, *, also: Also | None = None) -> EscrowRow:
        """Accept (for good) or dispute what was delivered. See `EscrowDesk.wish`."""
        row = await self.get(request_id)
        match wish.action:
            case "accept":
                order = await queries.get_order(self._post.db, request_id)
                if row is not None and row.stage is Stage.OVERDUE and (order is None or order.result is None):
                    raise BadRequest(
                        "nothing was delivered that you could accept; the money is on its way back"
                    )
                return await self.wished(request_id, Accepted(), also=also)
            case "dispute":
                text = _statement(wish)
                return await self.wished(
                    request_id, Contested(), also=also,
                    change=lambda now: {"statements": said(now, "customer", text)},
                )  # fmt: skip
        raise BadRequest(f"a customer cannot {wish.action} an escrow")

    async def hears(self, row: EscrowRow, sender: str, message: EscrowMessage, delivery: Delivery) -> None:  # noqa: ARG002
        """See `EscrowDesk.hears`."""
        match message:
            case Delivered() if sender == row.terms.arbiter:
                reported = report_of(message)
                await self.escrows.note(row.key, lambda _row: {"reported": reported})
                self.watch(row.request_id)
            case Answers() if (
                sender == row.terms.provider and row.statements
            ):  # to our dispute, however it ended
                await self.escrows.note(
                    row.key, lambda now: {"statements": said(now, "provider", message.statement)}
                )
            case Reveals(key) if is_preimage(key, row.terms.hash or ""):  # whoever tells it
                await self._revealed(await self.escrows.keep_key(row, key))
                if row.stage is Stage.HELD:
                    self.watch(row.request_id)
            case _:
                pass

    async def _follow(self, request_id: str) -> None:
        await self._look_for_key(request_id)
        if (row := await self.get(request_id)) is not None and fee_is_due(row):
            self._owes_fee(row)
        await super()._follow(request_id)

    async def stop(self) -> None:
        """See `EscrowDesk.stop`."""
        await self._search.stop()
        await super().stop()

    def watch(self, request_id: str) -> None:
        """See `EscrowDesk.watch`."""
        super().watch(request_id)
        self._search.begin(request_id)

    def _is_wanted(self, row: EscrowRow) -> bool:
        return self.escrows.decide(row, ResultOut(by_arbiter=True)) is not None

    async def _on_seen(self, row: EscrowRow, result: Event) -> None:
        await self._delivered(row.request_id, result)

    async def _look_for_key(self, request_id: str) -> None:
        """While its coins are locked for the key of a sealed result, ask the mint for it: the provider may not tell."""
        wait_seconds = 1
        while (
            (row := await self.get(request_id)) is not None
            and row.stage is Stage.HELD
            and row.terms.method is Method.REVEAL
            and (left_seconds := row.terms.locktime + 1 - self._post.clock.now()) > 0
        ):
            try:
                row = await self.escrows.learn_key(row)
                if row.preimage is not None:
                    await self._revealed(row)
                    if await self.escrows.gone(row):
                        await self.happens(request_id, Gone(by_right=True))
                        return
            except WalletError as error:
                log.info("escrow_later", role=self.role, reason=str(error))
            await self._post.clock.sleep(min(wait_seconds, left_seconds))
            wait_seconds = min(2 * wait_seconds, LOOK_FOR_KEY_SECONDS)


def _statement(wish: Wishes) -> str:
    """What is to be told to the arbiter. Raises `BadRequest`."""
    if not wish.reason.strip():
        raise BadRequest("say why: it is all that the arbiter hears from you")
    if len(wish.reason.encode()) > STATEMENT_BYTES_MAX:
        raise BadRequest(f"say it in {STATEMENT_BYTES_MAX} bytes at most, with a link to what is longer")
    return wish.reason


def fee_is_due(row: EscrowRow) -> bool:
    """Whether our dispute costs something, is not ordered yet, and not ruled without."""
    is_open = row.stage is Stage.DISPUTED and row.ruling is None
    return is_open and row.terms.arbiter_fee_sat > 0 and row.fee_order is None


def offered_terms(offer: Offer, request: JobRequest, provider: str) -> Agreement | None:
    """The terms that an offer of an escrow means for our request; None if it offers none, or not all of it."""
    if Method.ESCROW not in offer.settle or offer.escrow is None or not offer.mints:
        return None
    said = offer.escrow
    if not (offer.lock and offer.locktime and request.lock):
        return None
    terms = Terms(
        method=Method.ESCROW, request_id=request.id, mint=offer.mints[0], price_sat=-(-offer.price_msat // 1000),
        provider=provider, provider_key=offer.lock, customer=request.customer, customer_key=request.lock,
        deliver_by=said.deliver_by, review_seconds=said.review_seconds, dispute_seconds=said.dispute_seconds,
        locktime=offer.locktime, arbiter=said.arbiter, arbiter_key=said.arbiter_key,
        arbiter_fee_sat=-(-said.fee_msat // 1000), arbiter_relays=said.arbiter_relays,
    )  # fmt: skip
    return Agreement(terms, Signed(said.signed_at, said.sig))
