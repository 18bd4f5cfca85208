"""An arbiter: signs terms before anything is locked, and coins for whom the rules or its ruling award them.

It learns secrets and amounts of coins, never the coins: it can sign for a party and cannot take anything itself. Where
both are silent it follows the rules by itself; a dispute waits for `rule`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import structlog

from dvm.errors import BadRequest
from dvm.escrow.agreement import acceptance_of, ruling_of
from dvm.escrow.desk import RETRY_SECONDS, EscrowDesk, Letter
from dvm.escrow.hearings import LETTER_SECONDS_MAX, Hearings
from dvm.escrow.messages import (
    Accepts,
    Answers,
    AsksBack,
    Declines,
    Delivered,
    Disputes,
    EscrowMessage,
    Ruled,
    Serve,
    Serves,
    Signs,
    Wishes,
    Yields,
    read_message,
)
from dvm.escrow.parties import said
from dvm.escrow.results import ResultSearch, report_of
from dvm.limits import ProviderLimits
from dvm.nip90 import parse_request
from dvm.post import WRAP_MARGIN_SECONDS, Post
from identity import DecryptionError, Event, InvalidEvent, Rumor, SecretKey, Signer, parse_event
from identity.nip59 import KIND_EPHEMERAL_GIFT_WRAP, KIND_GIFT_WRAP, unwrap
from relay_bridge import Delivery, Filter, Following
from store import Also, Transaction
from wallet import WalletError, queries_escrows
from wallet.errors import WrongTerms
from wallet.escrow import (
    Accepted,
    AskedBack,
    Contested,
    Effect,
    EscrowInput,
    GivesBack,
    ResultOut,
    Role,
    Ruling,
    Stage,
)
from wallet.locks import check_lock
from wallet.mint import CoinState
from wallet.queries_escrows import EscrowRow
from wallet.selection import subset_of
from wallet.terms import ARBITER_RELAYS_MAX, Method, Terms, check_agreement

log = structlog.get_logger(__name__)

CATCH_UP_SECONDS_MAX: Final = 60
READ_SECONDS: Final = 10  # what relays had is on disk then, and with its handlers
Coins = tuple[tuple[str, int], ...]
_SIGNING: Final = (Effect.SIGN_FOR_PROVIDER, Effect.SIGN_FOR_CUSTOMER, Effect.SIGN_AS_RULED)


@dataclass(frozen=True)
class ArbiterLimits:
    """What an arbiter serves. Its clock must be that of the mints, so it names those it knows.

    `fee_sat`: what hearing a dispute costs whoever begins it; 0: nothing.
    """

    fee_sat: int = 0
    price_sat_max: int = 100_000
    lock_seconds_max: int = 14 * 86_400
    open_cases_max: int = 1_000


class Arbiter(EscrowDesk):
    """One arbiter. Its identity must be neither party's; parties name it in their configuration and requests."""

    role: ClassVar[Role] = Role.ARBITER

    def __init__(
        self,
        post: Post,
        signer: Signer,
        limits: ArbiterLimits | None = None,
        *,
        job_limits: ProviderLimits | None = None,
    ) -> None:
        """`job_limits` are those of hearings, which are jobs if they cost something; see `Hearings`."""
        super().__init__(post, signer)
        self._limits = limits or ArbiterLimits()
        self._search = ResultSearch(post, self.get, wanted=self._is_wanted, found=self._on_seen)
        self._hearings: Hearings | None = None
        if self._limits.fee_sat:
            self._hearings = Hearings(
                self, post, signer, fee_sat=self._limits.fee_sat, cases_max=self._limits.open_cases_max,
                limits=job_limits or ProviderLimits(),
            )  # fmt: skip
        self._following: Following | None = None

    @property
    def public_key(self) -> str:
        """Its Nostr identity."""
        return self._signer.public_key

    def key(self, row: EscrowRow) -> SecretKey:
        """See `EscrowDesk.key`."""
        return self._key(row.request_id, row.terms.provider)

    def _key(self, request_id: str, provider: str) -> SecretKey:
        return self._post.seed.job_key("arbiter", self.public_key, request_id, provider)

    async def secrets(self, row: EscrowRow) -> list[tuple[str, int]]:
        """See `EscrowDesk.secrets`."""
        return list(row.coins)

    async def start(self) -> None:
        """Go on with open cases, and listen."""
        self._post.pool.add_signer(self._signer)
        await super().start()
        wraps = Filter(kinds=(KIND_GIFT_WRAP, KIND_EPHEMERAL_GIFT_WRAP), tags={"p": (self.public_key,)})
        self._following = await self._post.inbox.follow(
            f"arbiter:{self.public_key}", [wraps], self._on_wrap, margin_seconds=WRAP_MARGIN_SECONDS,
            backlog_seconds=WRAP_MARGIN_SECONDS,
        )  # fmt: skip
        if self._hearings is not None:
            await self._hearings.start()

    async def caught_up(self, seconds: int) -> bool:
        """Read and handle what relays have for us now; False if none told all of it in that time."""
        return self._following is not None and await self._following.read(patience_seconds=seconds)

    async def stop(self) -> None:
        """Stop listening and waiting; all cases are in the store."""
        if self._hearings is not None:
            await self._hearings.stop()
        if self._following is not None:
            await self._following.close()
        await self._search.stop()
        await super().stop()

    async def _tick(self, row: EscrowRow) -> bool:
        """Nobody was silent whose letter waits for us, though its time has passed: first we read."""
        is_silence = row.stage in (Stage.DELIVERED, Stage.OVERDUE)
        while is_silence and self._post.clock.now() < row.terms.claim_until and not await self._has_read(row):
            await self._post.clock.sleep(RETRY_SECONDS)  # a letter that comes meanwhile cancels this
        return await super()._tick(row)

    async def _has_read(self, row: EscrowRow) -> bool:
        """Whether we know now all that was written to us; never while we are cut off from all relays.

        A customer that has said why it will not pay may have yet to learn that we are back, and pay the fee.
        """
        if self._following is None:
            return False
        since = await self._following.current_since(patience_seconds=CATCH_UP_SECONDS_MAX)
        is_contested = self._hearings is not None and any(said["by"] == "customer" for said in row.statements)
        now, seconds = self._post.clock.now(), LETTER_SECONDS_MAX if is_contested else READ_SECONDS
        # Strangers may keep us busy: what was not handled within five minutes is not waited for any more.
        is_handled = self._following.is_idle or now >= (row.wake_at or 0) + LETTER_SECONDS_MAX
        return bool(since) and is_handled and now >= max(since) + READ_SECONDS and now >= min(since) + seconds

    async def wish(self, request_id: str, wish: Wishes, *, also: Also | None = None) -> EscrowRow:
        """Rule. See `EscrowDesk.wish`."""
        if wish.action != "rule":
            raise BadRequest(f"an arbiter cannot {wish.action} an escrow")
        return await self.rule(request_id, wish.provider_sat, also=also)

    async def rule(self, request_id: str, provider_sat: int, *, also: Also | None = None) -> EscrowRow:
        """Award so much of a disputed price to the provider, the rest to the customer, and publish that.

        Whole coins change hands, each side's fee for swapping them included. Raises `BadRequest` if the coins cannot be
        shared so or are not known yet, if there is no dispute, or if it is too late; `MintUnavailable`.
        """
        row = await self.get(request_id)
        if row is None or row.stage is not Stage.DISPUTED:
            raise BadRequest("there is no dispute to rule on; `tradepost escrow list` shows what is open")
        if not 0 <= provider_sat <= row.terms.price_sat:
            raise BadRequest(f"award 0 … {row.terms.price_sat} sat, the price, to the provider")
        # What the agent gets it must have named: a customer that disputes first can name coins that there are not.
        coins = _reported_coins(row) if provider_sat else _known_coins(row)
        if not _are_all(coins, row):
            who = "the agent has" if provider_sat else "the parties have"
            raise BadRequest(
                f"{who} named coins of {_worth(coins)} of {row.terms.price_sat} sat so far: wait for the agent's "
                "report, then rule again"
            )
        awarded = await self._share(row, coins, provider_sat)
        template = ruling_of(
            row.terms, provider_sat=provider_sat, customer_sat=row.terms.price_sat - provider_sat,
            statements=[one["text"] for one in row.statements], now=self._post.clock.now(),
        )  # fmt: skip
        ruling = await self._signer.sign(template)

        async def publish(tx: Transaction) -> None:
            await self.send(tx, row, [ruling])
            if also is not None:
                await also(tx)

        ruled = await self.happens(
            request_id, Ruling(), also=publish, coins=coins, awarded=awarded, ruling=ruling.to_json().decode()
        )
        if ruled is None:
            raise BadRequest(
                "there is nothing to rule on any more: a party has given in, or the locktime is too near"
            )
        return ruled

    async def _share(self, row: EscrowRow, coins: Coins, provider_sat: int) -> tuple[str, ...]:
        """The secrets of coins that are worth so much to the provider after the mint's fee. Raises `BadRequest`."""
        amounts, price_sat = [sat for _, sat in coins], row.terms.price_sat
        counts = range(len(coins) + 1)
        fees_sat = [await self._post.wallet.fee_of(row.terms.mint, count) for count in counts]
        chosen = _split(amounts, price_sat, provider_sat, fees_sat)
        if chosen is None:
            below, above = range(provider_sat - 1, -1, -1), range(provider_sat + 1, price_sat + 1)
            near = [
                next(sat for sat in one if _split(amounts, price_sat, sat, fees_sat) is not None)
                for one in (below, above)
            ]
            raise BadRequest(
                f"the coins of this escrow cannot be shared so; the agent can have {near[0]} or {near[1]} sat"
            )
        return tuple(coins[number][0] for number in chosen)

    async def letters(self, row: EscrowRow, then: Effect) -> list[Letter]:
        """See `EscrowDesk.letters`. Before it signs, the arbiter asks the mint whether the coins are still there."""
        if then not in _SIGNING or not row.coins:
            return await super().letters(row, then)
        secrets = [secret for secret, _ in row.coins]
        states = await self._post.wallet.states(row.terms.mint, secrets)
        left = [secret for secret in secrets if states[secret].state is not CoinState.SPENT]
        for_provider = {
            Effect.SIGN_FOR_PROVIDER: set(left),
            Effect.SIGN_FOR_CUSTOMER: set(),
        }.get(then, set(row.awarded))
        shares = {
            row.terms.provider: [secret for secret in left if secret in for_provider],
            row.terms.customer: [secret for secret in left if secret not in for_provider],
        }
        letters: list[Letter] = [
            (party, Signs(self.escrows.sign(share, self.key(row))))
            for party, share in shares.items()
            if share
        ]
        if row.ruling is not None:
            ruled = Ruled(parse_event(row.ruling))
            letters += [(row.terms.provider, ruled), (row.terms.customer, ruled)]
        return letters

    # What comes in -------------------------------------------------------------------------------------------

    async def _on_wrap(self, delivery: Delivery) -> None:
        try:
            rumor = await unwrap(self._signer, delivery.event)
        except DecryptionError as error:
            log.info("wrap_ignored", wrap=delivery.event.id, reason=str(error))
            return
        await self.receive(rumor, delivery)

    async def receive(self, rumor: Rumor, delivery: Delivery) -> None:
        """See `EscrowDesk.receive`; a case begins with a provider's `Serve`."""
        try:
            request_id, message = read_message(rumor)
        except BadRequest:
            message = None
        if isinstance(message, Serve):
            await self._on_serve(request_id, rumor.pubkey, message, delivery)
        else:
            await super().receive(rumor, delivery)

    async def _on_serve(self, request_id: str, provider: str, message: Serve, delivery: Delivery) -> None:
        terms, now, serves = self._terms(request_id, provider, message), self._post.clock.now(), True
        answer: EscrowMessage
        try:
            await self._check(terms, message)
            if (case := await self.get(request_id)) is not None and case.terms.provider != provider:
                raise WrongTerms("another agent has this request already")
        except (WrongTerms, BadRequest, InvalidEvent) as error:
            serves, answer = False, Declines(str(error)[:1000])
        else:
            acceptance = await self._signer.sign(acceptance_of(terms, now))
            answer = Serves(
                terms.arbiter_key or "", acceptance.created_at, acceptance.sig, terms.arbiter_fee_sat,
                [*terms.arbiter_relays],
            )  # fmt: skip
        row = self.escrows.new(self.role, self.public_key, Stage.AGREED, terms, message.request)
        events = await self.seal(row, [(provider, answer)])
        async with self._post.db.transaction() as tx:
            is_first = not serves or await self.escrows.add(tx, row)
            if is_first:
                await self.send(tx, row, events)
                await delivery.done(tx)
        if not is_first and (case := await self.get(request_id)) and case.terms.provider != provider:
            return await self._on_serve(request_id, provider, message, delivery)  # overtaken: decline
        if serves:
            self.watch(request_id)
        return None

    def _terms(self, request_id: str, provider: str, message: Serve) -> Terms:
        return Terms(
            method=Method.ESCROW, request_id=request_id, provider=provider, provider_key=message.provider_key,
            customer=message.request.pubkey, customer_key=message.customer_key, mint=message.mint,
            price_sat=message.price_sat, deliver_by=message.deliver_by, review_seconds=message.review_seconds,
            dispute_seconds=message.dispute_seconds, locktime=message.locktime, arbiter=self.public_key,
            arbiter_key=self._key(request_id, provider).compressed_public_key, arbiter_fee_sat=self._limits.fee_sat,
            arbiter_relays=self._post.pool.urls[:ARBITER_RELAYS_MAX],
        )  # fmt: skip

    async def _check(self, terms: Terms, message: Serve) -> None:
        """Raise unless the customer itself asked for us, this agent and that key, and we serve such terms."""
        message.request.verify()
        request = parse_request(message.request)
        now, limits = self._post.clock.now(), self._limits
        if request.id != terms.request_id or request.lock != terms.customer_key:
            raise WrongTerms("the request is another one, or its lock key is")
        if self.public_key not in request.arbiters or terms.mint not in request.mints:
            raise WrongTerms("the customer named neither this arbiter nor this mint")
        asked = {tag[1] for tag in message.request.tags_named("p") if len(tag) > 1}
        if asked and terms.provider not in asked:
            raise WrongTerms("the customer asked other agents")
        if terms.mint not in self._post.wallet.mints:
            raise WrongTerms("this arbiter does not know the mint")
        if why_not := await self.doubts_of_time(terms.mint):
            raise WrongTerms(why_not)
        check_agreement(terms, now)
        if terms.price_sat > limits.price_sat_max or terms.locktime > now + limits.lock_seconds_max:
            raise WrongTerms(
                f"this arbiter serves up to {limits.price_sat_max} sat, {limits.lock_seconds_max} s"
            )
        open_cases = await queries_escrows.count_open(self._post.db, self.public_key, self.role)
        if open_cases >= limits.open_cases_max:
            raise WrongTerms("this arbiter has too many open cases; try again later")

    async def hears(self, row: EscrowRow, sender: str, message: EscrowMessage, delivery: Delivery) -> None:
        """See `EscrowDesk.hears`."""
        terms = row.terms
        match message:
            case Delivered(coins=coins) if sender == terms.provider and (
                checked := self._checked(row, coins)
            ):
                reported = report_of(message, checked)
                await self.escrows.note(row.key, lambda _row: {"reported": reported})
                self.watch(row.request_id)
            case AsksBack(coins) if sender == terms.customer and (checked := self._checked(row, coins)):
                await self.happens(row.request_id, AskedBack(), also=delivery.done, coins=checked)
            case Disputes(reason, coins) if sender == terms.customer:
                await self._on_dispute(row, reason, self._checked(row, coins), delivery)
            case Accepts() if sender == terms.customer:
                await self._on_concession(row, Role.CUSTOMER, "I accept the result after all.")
            case Yields() if sender == terms.provider:
                await self._on_concession(row, Role.PROVIDER, "I gave the money back.")
            case Answers(statement) if sender == terms.provider and not row.stage.is_final:
                await self.escrows.note(row.key, lambda now: {"statements": said(now, "provider", statement)})
            case _:
                pass

    async def _on_dispute(self, row: EscrowRow, reason: str, coins: Coins, delivery: Delivery) -> None:
        """The customer says why it will not pay. Is there a fee, the dispute begins when that is paid: `Hearings`.

        A case that was signed for another fee than ours is now is heard for nothing: we could not ask for it.
        """

        def heard(now: EscrowRow) -> dict[str, Any]:
            return {"statements": said(now, "customer", reason), "coins": _known_coins(now, coins)}

        is_free = not row.terms.arbiter_fee_sat or row.terms.arbiter_fee_sat != self._limits.fee_sat
        if is_free and row.stage is not Stage.DISPUTED:
            await self.happens(row.request_id, Contested(), also=delivery.done, change=heard)
        elif row.stage in (Stage.AGREED, Stage.OVERDUE, Stage.DELIVERED, Stage.DISPUTED):
            await self.escrows.note(row.key, heard)
            self.watch(row.request_id)

    async def _on_concession(self, row: EscrowRow, by: Role, text: str) -> None:
        if not row.stage.is_final:
            await self.escrows.note(
                row.key,
                lambda now: None if now.conceded else {"conceded": by, "statements": said(now, by, text)},
            )
            self.watch(row.request_id)

    async def due(self, row: EscrowRow) -> tuple[EscrowInput, dict[str, Any]] | None:
        """See `EscrowDesk.due`. A party gives in: we sign for the other, and there is nothing more to rule on.

        For the agent only over coins that it named itself: the customer could name some that there are not, and the
        case would be closed.
        """
        event, coins = {
            "": (None, ()),
            Role.CUSTOMER: (Accepted(), _reported_coins(row)),
            Role.PROVIDER: (GivesBack(), _known_coins(row)),
        }[row.conceded]
        if event is None or not _are_all(coins, row) or self.escrows.decide(row, event) is None:
            return None
        return event, {"coins": coins}

    def watch(self, request_id: str) -> None:
        """See `EscrowDesk.watch`."""
        super().watch(request_id)
        self._search.begin(request_id)
        if self._hearings is not None:
            self._hearings.changed(request_id)

    def _is_wanted(self, row: EscrowRow) -> bool:
        """Whether it is of use to see the result: it is owed for, or is what a dispute is about."""
        return row.stage is Stage.DISPUTED or self.escrows.decide(row, ResultOut()) is not None

    async def _on_seen(self, row: EscrowRow, result: Event) -> None:
        """We have the result ourselves: the customer shall have it, too."""
        if row.stage is Stage.DISPUTED:  # the customer was quicker
            await self.escrows.note(row.key, lambda now: {"result": result, "coins": _known_coins(now)})
            return

        async def show(tx: Transaction) -> None:
            await self.send(tx, row, [result])

        await self.happens(row.request_id, ResultOut(), also=show, result=result, coins=_known_coins(row))

    def _checked(self, row: EscrowRow, coins: Iterable[tuple[str, int]]) -> Coins:
        """The coins if each is named once and locked exactly as agreed, else none: our key signs nothing else."""
        found = tuple(coins)
        if len(dict(found)) < len(found):
            return ()
        try:
            for secret, _ in found:
                check_lock(secret, row.terms.lock)
        except WalletError as error:
            log.info("escrow_message_ignored", request=row.request_id, reason=str(error))
            return ()
        return found


def _split(
    amounts: Sequence[int], price_sat: int, provider_sat: int, fees_sat: Sequence[int]
) -> list[int] | None:
    """The positions of coins that leave the provider so much after the mint's fee, and the customer something.

    All or none of them for all or nothing of the price. `fees_sat`: what swapping 0, 1, 2, … coins costs. None if no
    coins do.
    """
    if provider_sat in (0, price_sat):
        return list(range(len(amounts))) if provider_sat else []
    for fee_sat in range(fees_sat[-1] + 1):
        chosen = subset_of(amounts, provider_sat + fee_sat)
        rest_sat = sum(amounts) - provider_sat - fee_sat
        if chosen and fees_sat[len(chosen)] <= fee_sat and rest_sat > fees_sat[len(amounts) - len(chosen)]:
            return chosen
    return None


def _known_coins(row: EscrowRow, named: Coins = ()) -> Coins:
    """The coins of a case: the provider's list if that is all, else another that is (`named`: by a letter just now).

    Any party can lie about coins. The provider's lies harm itself: what is not signed the customer takes back after
    the locktime. Of lists that are not all it is the one that is worth most.
    """
    lists = (_reported_coins(row), row.coins, named)
    return next((one for one in lists if _are_all(one, row)), max(lists, key=_worth))


def _reported_coins(row: EscrowRow) -> Coins:
    return tuple((secret, sat) for secret, sat in (row.reported or {}).get("coins", ()))


def _are_all(coins: Coins, row: EscrowRow) -> bool:
    return _worth(coins) >= row.terms.price_sat


def _worth(coins: Coins) -> int:
    return sum(dict(coins).values())
