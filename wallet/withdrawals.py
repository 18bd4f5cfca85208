"""Paying out once for each k1 (LUD-03): the row says which melt has it before the mint is asked to pay.

A melt that certainly failed makes the k1 good again, less what the mint took for it; one of which nothing is known
keeps it, until the mint tells.
"""

import hashlib
import secrets
from typing import Final

import structlog

from store import Clock, Database, Transaction
from wallet import queries_lnurl as queries
from wallet.errors import InvalidLnurl, LimitExceeded, MintUnavailable
from wallet.invoice import parse_invoice
from wallet.operations import State
from wallet.queries_lnurl import Withdrawal, WithdrawalRow
from wallet.sweep import payable_sat
from wallet.wallet import Wallet

RETRY_SECONDS: Final = 15.0

log = structlog.get_logger(__name__)


class Withdrawals:
    """The payouts of one wallet. Safe for concurrent callers: whoever is first with a k1 has it."""

    def __init__(self, db: Database, wallet: Wallet, clock: Clock) -> None:
        self._db = db
        self._wallet = wallet
        self._clock = clock

    async def promise(self, tx: Transaction, *, mint: str, owed_sat: int, description: str) -> str:
        """Let somebody withdraw `payable_sat(owed_sat)`, at least 1; returns the k1, a secret."""
        k1 = secrets.token_hex(32)
        row = WithdrawalRow(
            k1, mint, Withdrawal.OPEN, owed_sat, payable_sat(owed_sat), description, 0, None, None, self._clock.now()
        )  # fmt: skip
        await queries.insert_withdrawal(tx, row)
        return k1

    async def take_back(self, tx: Transaction, k1: str) -> int | None:
        """Make a promise void; returns what was owed in the end, None if it was withdrawn, or is being."""
        return await queries.void_withdrawal(tx, k1)

    async def find(self, k1: str) -> WithdrawalRow:
        """What a k1 is good for. Raises `InvalidLnurl` if there is none of that name."""
        row = await queries.withdrawal(self._db, k1)
        if row is None:
            raise InvalidLnurl("there is nothing to withdraw here; scan the code again")
        return row

    async def begin(self, k1: str, bolt11: str) -> None:
        """Decide to pay an invoice over exactly `pay_sat`: when this returns the melt is on disk, `finish` makes it.

        The same k1 and invoice again change nothing. Raises `InvalidLnurl` (another invoice, another amount),
        `InvalidRequest`, `LimitExceeded` (the mint wants more in reserve: ask again what can be withdrawn),
        `InsufficientFunds`, `MintError`, `MintUnavailable`.
        """
        row, bolt11 = await self.find(k1), bolt11.lower()
        if row.state is not Withdrawal.OPEN:
            if row.bolt11 == bolt11:
                return
            raise InvalidLnurl("this was withdrawn already, or is on its way, to another invoice")
        if parse_invoice(bolt11).amount_msat != 1000 * row.pay_sat:
            raise InvalidLnurl(f"the invoice must be over exactly {row.pay_sat} sat")
        # Of the k1 only a hash goes into names, which are logged.
        op_id = f"withdraw:{hashlib.sha256(k1.encode()).hexdigest()[:32]}:{row.attempts}"
        try:
            plan = await self._wallet.plan_pay(
                row.mint, bolt11, op_id=op_id, purpose="pay out", total_sat_max=row.owed_sat
            )
        except LimitExceeded:
            lower = row.owed_sat - 2 * (row.owed_sat - row.pay_sat)
            async with self._db.transaction() as tx:
                await queries.lower_withdrawal(tx, k1, max(1, lower))
            raise
        try:
            async with self._db.transaction() as tx:
                if not await queries.begin_withdrawal(tx, row, bolt11, op_id):
                    raise InvalidLnurl("this is being withdrawn at this moment")
                await self._wallet.record(tx, plan)
        except BaseException:
            await self._wallet.release(plan)
            raise

    async def finish(self, k1: str) -> WithdrawalRow:
        """See the payout under way through, however long its mint is away. Idempotent; a restart calls it again."""
        while (row := await self.find(k1)).state is Withdrawal.PAYING:
            assert row.op_id is not None
            try:
                outcome = await self._wallet.settle(row.op_id)
            except MintUnavailable as error:
                log.warning("payout_unclear", op_id=row.op_id, reason=str(error))
                await self._clock.sleep(RETRY_SECONDS)
                continue
            owed_sat = (
                row.owed_sat - outcome.fee_sat
            )  # of a payout in vain: the mint took it for the coins' way back
            pay_sat = max(1, min(row.pay_sat, payable_sat(owed_sat)))
            async with self._db.transaction() as tx:
                if outcome.state is State.DONE:
                    await queries.pay_withdrawal(tx, row.op_id)
                else:
                    await queries.reopen_withdrawal(tx, row.op_id, owed_sat=owed_sat, pay_sat=pay_sat)
            log.info("payout_ended", op_id=row.op_id, state=outcome.state)
        return row
