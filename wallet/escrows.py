"""The driver of escrows: writes what `escrow.decide` decides, and moves the coins it decided about.

Who holds the sats: the mint, under a lock that needs two of three (or a preimage), until one swap. That swap is an
operation of the wallet with a name of its own, recorded before the mint is asked, so a restart finds it.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import reduce
from typing import Any, Final

from identity import Event, SecretKey
from store import Also, Clock, Database, Transaction
from wallet import queries_escrows as queries
from wallet.errors import AlreadySpent, InvalidToken, MintUnavailable
from wallet.escrow import (
    Decision,
    EscrowInput,
    Gone,
    ResultOut,
    Role,
    Stage,
    Taken,
    TooLate,
    decide,
    wakes_at,
)
from wallet.mint import CoinState
from wallet.operations import Plan, State
from wallet.proofs import Token
from wallet.queries_escrows import EscrowRow
from wallet.terms import Terms
from wallet.token import parse_token
from wallet.wallet import Wallet
from wallet.witness import add_preimage, add_signature, can_spend, preimage_of, sign_secret, signers

Change = Callable[[EscrowRow], dict[str, Any] | None]
Prepare = Callable[[EscrowRow, Decision], Awaitable[Also | None]]
Key = tuple[Role, str, str]

SIGNATURES_OF_ONE_MAX: Final = 2  # two other parties


class Escrows:
    """All escrows in one database. Safe for concurrent callers: each step is decided on the row as it is written."""

    def __init__(self, db: Database, wallet: Wallet, clock: Clock) -> None:
        self._db = db
        self._wallet = wallet
        self._clock = clock

    async def get(self, role: Role, party: str, request_id: str) -> EscrowRow | None:
        """One escrow, None if there is none."""
        return await queries.get(self._db, role, party, request_id)

    async def open(self, role: Role, party: str) -> list[EscrowRow]:
        """What an earlier process left to be done."""
        return await queries.open_escrows(self._db, party, role)

    def new(self, role: Role, party: str, stage: Stage, terms: Terms, request: Event) -> EscrowRow:
        """A row that is not in the table yet."""
        now = self._clock.now()
        wake_at = wakes_at(role, stage, terms, None)
        return EscrowRow(role, party, terms.request_id, stage, terms, request, now, now, wake_at=wake_at)

    async def add(self, tx: Transaction, row: EscrowRow) -> bool:
        """Begin one; False if this party has one for that request already."""
        return await queries.insert(tx, row)

    def decide(self, row: EscrowRow, event: EscrowInput, **columns: Any) -> Decision | None:
        """What `event` would make of an escrow that stands as `row` says."""
        decided = self._decide(row, event, columns)
        return None if decided is None else decided[0]

    async def write(
        self, tx: Transaction, row: EscrowRow, event: EscrowInput, **columns: Any
    ) -> Decision | None:
        """As `apply`, in the caller's transaction. None, and nothing written, if `row` is not as it was read, too."""
        decided = self._decide(row, event, columns)
        if decided is None or not await queries.update(tx, row, **decided[1]):
            return None
        return decided[0]

    async def apply(
        self,
        key: Key,
        event: EscrowInput,
        *,
        prepare: Prepare | None = None,
        change: Change | None = None,
        **columns: Any,
    ) -> tuple[EscrowRow, Decision] | None:
        """Let `event` happen: the new stage, `columns` and what `prepare` wants written are one transaction.

        `change` says which more columns, by the row as it is then. `prepare` is asked what else to write once it is
        decided, outside of the transaction; it gets the row with all columns, and in its old stage. Both are asked
        perhaps more than once.
        None if the escrow knows no such step from where it stands: then nothing was written.
        """
        while (row := await self.get(*key)) is not None:
            more = columns | ((change(row) if change else None) or {})
            decided = self._decide(row, event, more)
            if decided is None:
                return None
            decision, changed = decided
            also = await prepare(replace(row, **more), decision) if prepare else None
            async with self._db.transaction() as tx:
                if not await queries.update(tx, row, **changed):
                    continue
                if also is not None:
                    await also(tx)
            return replace(row, version=row.version + 1, **changed), decision
        return None

    def _decide(
        self, row: EscrowRow, event: EscrowInput, columns: dict[str, Any]
    ) -> tuple[Decision, dict[str, Any]] | None:
        now = self._clock.now()
        decision = decide(row.role, row.stage, event, row.terms, now=now, delivered_at=row.delivered_at)
        if decision is None:
            return None
        if isinstance(event, ResultOut):
            columns = columns | {"delivered_at": now}
        terms, delivered_at = (
            columns.get("terms", row.terms),
            columns.get("delivered_at", row.delivered_at),
        )
        wake_at = row.wake_at
        if decision.stage is not row.stage:
            wake_at = wakes_at(row.role, decision.stage, terms, delivered_at)
        return decision, columns | {"stage": decision.stage, "wake_at": wake_at, "updated_at": now}

    async def note(self, key: Key, change: Change) -> EscrowRow | None:
        """Write columns that change no stage; `change` says which, None for none."""
        while (row := await self.get(*key)) is not None:
            columns = change(row)
            if columns is None:
                return row
            async with self._db.transaction() as tx:
                if await queries.update(tx, row, **columns):
                    return replace(row, version=row.version + 1, **columns)
        return None

    # Signatures ----------------------------------------------------------------------------------------------

    @staticmethod
    def sign(secrets: Iterable[str], key: SecretKey) -> dict[str, str]:
        """A signature over each secret: half of what its coin needs."""
        return {secret: sign_secret(secret, key) for secret in secrets}

    @staticmethod
    def genuine(given: dict[str, str], by: str) -> dict[str, str]:
        """Those of some signatures, by secret, that the one-job key `by` made over that very secret."""
        return {
            secret: signature
            for secret, signature in given.items()
            if signers(secret, f'{{"signatures":["{signature}"]}}', [by])
        }

    @staticmethod
    def merge(row: EscrowRow, given: dict[str, str]) -> dict[str, list[str]] | None:
        """The escrow's signatures with these, which are genuine; None if nothing is new."""
        known = {secret: list(signatures) for secret, signatures in row.signatures.items()}
        for secret, signature in given.items():
            have = known.setdefault(secret, [])
            if signature not in have and len(have) < SIGNATURES_OF_ONE_MAX:
                have.append(signature)
        return None if known == row.signatures else known

    # Coins ---------------------------------------------------------------------------------------------------

    async def coins(self, row: EscrowRow) -> Token:
        """The locked coins, of the customer's own making or as the provider got them."""
        if row.token is not None:
            return parse_token(row.token)
        assert row.op_id is not None
        outcome = await self._wallet.outcome(row.op_id)
        assert outcome is not None
        assert outcome.token is not None
        return outcome.token

    async def claim(self, row: EscrowRow, key: SecretKey, *, also: Prepare | None = None) -> EscrowRow:
        """See an escrow in CLAIMING to its end: swap to us what our key, with the signatures of others, opens.

        `also` is written with the end, whichever it is. Raises `MintUnavailable` if the mint gives no clear answer, and
        `WrongLock` if it is too early: try again later.
        """
        while True:
            op_id = claim_id(row)
            if not await self._wallet.is_recorded(op_id):
                if self._is_too_late(row):
                    return await self._ended(row, TooLate(), also, 0)
                try:
                    plan = await self._plan(row, key, op_id)
                except (AlreadySpent, InvalidToken) as error:
                    is_dust = isinstance(error, InvalidToken) and self._opens_all(row)
                    if not is_dust and not await self.gone(row):  # an operation of ours has them just now
                        raise MintUnavailable(f"the coins of an escrow are busy: {error}") from None
                    row = await self.learn_key(row)
                    return await self._ended(row, Gone(await self.went_by_right(row)), also, 0)
                async with self._db.transaction() as tx:
                    await self._wallet.record(tx, plan)
            outcome = await self._wallet.settle(op_id)
            if outcome.state is State.DONE:
                return await self._ended(row, Taken(), also, outcome.received_sat)
            attempts = (
                row.attempts + 1
            )  # somebody took some of them meanwhile, or the mint refused: look again
            noted = await self.note(row.key, lambda _row, n=attempts: {"attempts": n})  # type: ignore[misc]  # a default is bound
            assert noted is not None
            row = noted
            if outcome.state is State.FAILED:
                raise MintUnavailable(f"{row.terms.mint} refused the coins of an escrow: {outcome.error}")

    async def went_by_right(self, row: EscrowRow) -> bool:
        """Whether every coin was spent with the signatures (and preimage) that its lock asks for before its locktime.

        The mint shows them (NUT-07); a mint that shows none proves nothing. Coins for a key were spent by right if we
        have the key. Raises `MintUnavailable`.
        """
        if row.terms.hash is not None:
            return row.preimage is not None
        coins = await self.coins(row)
        lock = row.terms.lock
        named = (lock.pubkey, *lock.pubkeys)
        states = await self._wallet.states(row.terms.mint, [proof.secret for proof in coins.proofs])
        return all(
            state.state is CoinState.SPENT and can_spend(lock, signers(secret, state.witness, named), now=0)
            for secret, state in states.items()
        )

    async def learn_key(self, row: EscrowRow) -> EscrowRow:
        """The escrow with the key of its sealed result, if a coin was spent with it and the mint shows that (NUT-07).

        Raises `MintUnavailable`.
        """
        hash_ = row.terms.hash
        if hash_ is None or row.preimage is not None:
            return row
        coins = await self.coins(row)
        states = await self._wallet.states(row.terms.mint, [proof.secret for proof in coins.proofs])
        found = (preimage_of(hash_, state.witness) for state in states.values())
        key = next((preimage for preimage in found if preimage is not None), None)
        return await self.keep_key(row, key) if key is not None else row

    async def keep_key(self, row: EscrowRow, preimage: str) -> EscrowRow:
        """Keep the key of a sealed result with the escrow."""
        noted = await self.note(row.key, lambda now: {"preimage": preimage} if now.preimage is None else None)
        assert noted is not None
        return noted

    async def gone(self, row: EscrowRow) -> bool:
        """Whether all of its coins are spent. Raises `MintUnavailable`."""
        coins = await self.coins(row)
        states = await self._wallet.states(row.terms.mint, [proof.secret for proof in coins.proofs])
        return all(state.state is CoinState.SPENT for state in states.values())

    async def _ended(
        self, row: EscrowRow, event: EscrowInput, also: Prepare | None, got_sat: int
    ) -> EscrowRow:
        applied = await self.apply(row.key, event, prepare=also, amount_sat=got_sat)
        if applied is not None:
            return applied[0]
        now_is = await self.get(*row.key)
        assert now_is is not None
        return now_is

    def _opens_all(self, row: EscrowRow) -> bool:
        """Whether our key alone opens all that is left: the customer's, after the locktime.

        What a ruling awarded to the provider is the provider's: whoever has signatures for its own share takes that.
        """
        has_share = row.ruling is not None and bool(row.signatures)
        return row.role is Role.CUSTOMER and self._clock.now() > row.terms.locktime and not has_share

    def _is_too_late(self, row: EscrowRow) -> bool:
        """Whether asking the mint could give a key away for nothing: soon the customer may take the coins back."""
        return (
            row.role is Role.PROVIDER
            and row.terms.hash is not None
            and self._clock.now() >= row.terms.claim_until
        )

    async def _plan(self, row: EscrowRow, key: SecretKey, op_id: str) -> Plan:
        if row.role is Role.CUSTOMER:
            assert row.op_id is not None
            return await self._wallet.plan_reclaim(
                row.op_id, op_id=op_id, purpose="money back from escrow", key=key, job_id=row.request_id,
                signatures=None if self._opens_all(row) else row.signatures,
            )  # fmt: skip
        coins = await self.coins(row)
        left = coins.proofs
        if row.attempts or row.preimage is not None:  # else the swap itself asks, and tells nothing
            states = await self._wallet.states(coins.mint, [proof.secret for proof in left])
            left = tuple(proof for proof in left if states[proof.secret].state is not CoinState.SPENT)
        if row.preimage is not None:  # a key is not sold for a part of its price
            open_to_us = [add_preimage(proof, row.preimage) for proof in left]
            open_to_us = open_to_us if len(left) == len(coins.proofs) else []
        else:
            open_to_us = [
                reduce(add_signature, row.signatures[proof.secret], proof)
                for proof in left
                if proof.secret in row.signatures
            ]
        if not open_to_us:
            raise AlreadySpent("the coins were spent by somebody else first")
        return await self._wallet.plan_redeem(
            Token(coins.mint, tuple(open_to_us)), keys=(key,), op_id=op_id, purpose="escrow released",
            job_id=row.request_id, ask_first=False,
        )  # fmt: skip


def claim_id(row: EscrowRow) -> str:
    """The name of the operation that claims its coins, the last one if there were several."""
    return f"escrow:{row.role}:{row.party[:16]}:{row.request_id}:{row.attempts}"
