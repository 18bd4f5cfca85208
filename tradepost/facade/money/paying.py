"""Paying for one request: 402 says how (NUT-24, NUT-18, a Lightning invoice), X-Cashu brings the sats.

Somebody unknown who sends a token is known by the token from then on: their ticket follows from its coins and from what
they asked for, so that the same request again, after a lost answer, finds the same money and the same job.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from relay_bridge.timing import within
from tradepost.facade.callers.callers import TICKET, Caller, ticket_caller
from tradepost.facade.desk import Desk
from tradepost.facade.money import queries_transfers
from tradepost.facade.money.deposits import CustodyFull, Invoice, MintAway, NotTaken, coins_id
from tradepost.facade.money.purses import Balance, BalanceTooLow, told
from tradepost.facade.money.withdrawals import ECASH, Wish
from tradepost.facade.web.operations import Call
from tradepost.facade.web.problems import Conflict, PaymentRequired, Refusal
from tradepost.reserving import redeem_fee_sat
from wallet import (
    AlreadySpent,
    InvalidKeyset,
    InvalidToken,
    LimitExceeded,
    PaymentRequest,
    Token,
    UnknownMint,
    WalletError,
    WrongLock,
    encode_request,
    encode_token,
    parse_token,
)
from wallet.proofs import SAT

HEADER: Final = "X-Cashu"
CHANGE_SECONDS: Final = 3.0  # that a job which has ended is held back for its change
_NO_HEADER: Final = re.compile(r"[^ -~]")
_PURPOSE: Final = "front desk ticket"
#: What is wrong with a token; other errors are the mint's, or ours.
_BAD: Final = (
    InvalidToken,
    InvalidKeyset,
    LimitExceeded,
    UnknownMint,
    AlreadySpent,
    WrongLock,
    NotTaken,
    Conflict,
)

log = structlog.get_logger(__name__)


class BadToken(Refusal):
    """The token in X-Cashu is none, or none that this post takes. The header X-Reason says why, too."""

    status = 400

    def __init__(self, reason: str) -> None:
        super().__init__(reason, headers={"X-Reason": _NO_HEADER.sub("?", reason)})


class Payment(msgspec.Struct, frozen=True):
    """How to pay for what was asked for: by ecash or by Lightning, either will do.

    `price_sat` is the most that the work costs, `amount_sat` what is to be brought: what is missing of it, with the
    mint's fees. What is not needed stays in your balance. By ecash: send the same request with the header `X-Cashu`, a
    token of that amount from one of `mints`; `cashu` says the same as a payment request (NUT-18). By Lightning: pay
    `invoice` until `expires_at` (null: it cannot be paid by Lightning now; `verify` tells whether it is settled,
    LUD-21), then send the same request again. If there is a `ticket`, send `Authorization: Bearer <ticket>` with it,
    and keep it: whoever has the ticket has the sats.
    """

    price_sat: int
    amount_sat: int
    cashu: str
    mints: list[str]
    invoice: str | None
    verify: str | None
    expires_at: int | None
    ticket: str | None
    custodial: str

    def __repr__(self) -> str:
        return f"Payment(amount_sat={self.amount_sat}, ticket=…)"


@dataclass(frozen=True)
class Payer:
    """Whose sats pay for a request. `ticket`: by which somebody who was unknown is known from now on."""

    caller: Caller
    ticket: str | None = field(default=None, repr=False)


def paid_with(call: Call) -> Payer | None:
    """Who a request's X-Cashu token is for, brought before or not; None if there is none. Raises `BadToken`."""
    text = call.request.headers.get(HEADER)
    if text is None:
        return None
    try:
        coins = coins_id(parse_token(text))
    except _BAD as error:
        raise BadToken(str(error)) from None
    if call.caller is not None:
        return Payer(call.caller)
    # Whoever handed the token on knows its coins: a request is told apart by what else only its sender knows.
    said = hashlib.sha256((call.idempotency_key or "").encode() + b"\n" + call.raw).hexdigest()
    key = call.desk.post.seed.job_key(_PURPOSE, coins, said).to_bytes()
    ticket = TICKET + base64.urlsafe_b64encode(key).decode().rstrip("=")
    return Payer(ticket_caller(ticket), ticket)


async def pay_if_sent(call: Call, amount_sat: int) -> Payer | None:
    """Credit what a request brings: the token in X-Cashu, or invoices that its caller has paid by now, if they have
    less than `amount_sat`.

    None if nobody is known who could pay. Raises `BadToken`, `CustodyFull`, `MintFull`,
    `MintUnavailable`, and `MintAway`: the same request again goes on.
    """
    till = call.desk.till
    payer = paid_with(call)
    if payer is None:
        if call.caller is None:
            return None
        if (await till.balance(call.caller.id)).balance_sat < amount_sat:
            await till.deposits.arrived(call.caller.id)
        return Payer(call.caller)
    try:
        await till.deposits.bring_token(payer.caller, call.request.headers[HEADER])
    except _BAD as error:
        raise BadToken(str(error)) from None
    except MintAway as error:
        error.payment = {"ticket": payer.ticket} if payer.ticket else None
        raise
    return payer


async def has_brought(desk: Desk, payer: Payer) -> bool:
    """Whether sats of a payer are here, or a token of theirs is being redeemed."""
    balance = await desk.till.balance(payer.caller.id)
    now = desk.post.clock.now()
    coming_sat = await queries_transfers.coming_sat(desk.post.db, payer.caller.id, now, invoices=False)
    return balance.all_sat + coming_sat > 0


async def change_for(call: Call, payer: Payer, job_id: str) -> str | None:
    """What is left of the token by which somebody unknown paid for a job that is settled, as a token; the same again is
    the same one. None if nothing is left, or it cannot be had within `CHANGE_SECONDS`: it stays with the ticket.
    """
    if payer.ticket is None or HEADER not in call.request.headers:
        return None
    payouts = call.desk.till.payouts

    async def withdrawn() -> Token | None:
        row = await payouts.begin(payer.caller, Wish(ECASH, key=f"change:{job_id}"))
        return await payouts.token(row)

    try:
        token = await within(call.desk.post.clock, CHANGE_SECONDS, withdrawn())
    except BalanceTooLow:
        return None
    except (Refusal, WalletError, TimeoutError) as error:  # what has begun is seen through by the wallet
        log.warning("change_stays", job=job_id, reason=str(error))
        return None
    return encode_token(token) if token else None


async def payment_required(call: Call, price_sat: int, amount_sat: int) -> PaymentRequired:
    """The error that says how to pay for something that reserves `amount_sat`, less what the caller has.

    Raises `CustodyFull` if that is more than the post holds for anybody, `MintUnavailable`.
    """
    till = call.desk.till
    payer = paid_with(call) or (Payer(call.caller) if call.caller else None)
    balance = await till.balance(payer.caller.id) if payer else Balance(0, 0)
    missing_sat = max(1, amount_sat - balance.balance_sat)
    bring_sat = missing_sat + await redeem_fee_sat(call.desk.post.wallet)
    if balance.all_sat + bring_sat > till.deposits.cap_sat:
        raise CustodyFull(
            f"{bring_sat} sat would have to be brought for this, and this post holds at most {till.deposits.cap_sat} "
            "sat for anybody; ask for less",
            money=told(balance),
        )
    invoice = await _invoice(call, payer, bring_sat)
    request = PaymentRequest(
        amount=bring_sat, unit=SAT, single_use=True, mints=call.desk.post.wallet.mints, description="a job",
        id=hashlib.sha256(call.raw).hexdigest()[:16],
    )  # fmt: skip
    ticket = (invoice.ticket if invoice else None) or (payer.ticket if payer else None)
    payment = Payment(
        price_sat=price_sat, amount_sat=bring_sat, cashu=encode_request(request), mints=list(request.mints),
        invoice=invoice.bolt11 if invoice else None, verify=invoice.verify_url if invoice else None,
        expires_at=invoice.row.expires_at if invoice else None, ticket=ticket, custodial=till.deposits.custodial,
    )  # fmt: skip
    return PaymentRequired(
        f"this costs at most {price_sat} sat, {amount_sat} with the mint's fees, and {told(balance)}: bring "
        f"{bring_sat} sat, by ecash or Lightning as `payment` says, and send the same request again"
        + (", as bearer of the ticket in `payment`" if ticket else ""),
        payment=payment,
        money=told(balance),
        headers={HEADER: payment.cashu},
    )


async def _invoice(call: Call, payer: Payer | None, sat: int) -> Invoice | None:
    """An invoice, where there can be one; ecash is taken all the same."""
    deposits = call.desk.till.deposits
    try:
        client = call.desk.limits.client_of(call.request)
        return await deposits.ask(payer.caller if payer else None, sat, client=client, reuse=True)
    except (Refusal, WalletError) as error:
        log.warning("no_invoice", reason=str(error))
        return None
