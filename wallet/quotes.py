"""What is asked of a mint before money moves by Lightning: invoices and prices (NUT-04, NUT-05)."""

import secrets
from typing import Final

from wallet import queries
from wallet.errors import InvalidRequest, LimitExceeded
from wallet.exposure import check_room
from wallet.invoice import parse_invoice
from wallet.mint import MeltQuoteAnswer, MintQuoteState
from wallet.operations import Kind, Quote
from wallet.operations_desk import Desk
from wallet.operations_plan import Planner, Request

QUOTE_GRACE_SECONDS: Final = 86_400  # how long after its expiry an unpaid invoice is still asked for


async def ask_invoice(desk: Desk, mint: str, amount_sat: int, job_id: str | None) -> Quote:
    """See `Wallet.mint_quote`."""
    mint = desk.keyring.trusted(mint)
    if amount_sat <= 0:
        raise ValueError("an amount to fund is above zero")
    await check_room(desk.db, desk.caps, mint, amount_sat)
    await desk.keyring.keysets(mint)  # refuses a mint that could lose our coins before it is paid
    op_id = f"mint:{secrets.token_hex(16)}"
    key = desk.seed.job_key("mint-quote", op_id)
    answer = await desk.keyring.client(mint).mint_quote(amount_sat, key.compressed_public_key)
    if parse_invoice(answer.request).amount_msat != 1000 * amount_sat:
        raise InvalidRequest(
            f"{mint} made an invoice over another amount than {amount_sat} sat; do not pay it"
        )
    quote = Quote(answer.quote, mint, amount_sat, answer.request, answer.expiry, job_id)
    async with desk.db.transaction() as tx:
        await queries.insert_quote(tx, quote, op_id, desk.clock.now())
    return quote


async def pays_itself(desk: Desk, mint: str, amount_sat: int) -> bool:
    """See `Wallet.pays_itself`."""
    client = desk.keyring.client(desk.keyring.trusted(mint))
    key = desk.seed.job_key("mint-quote", "never shown")
    quote = await client.mint_quote(amount_sat, key.compressed_public_key)
    return (await client.mint_quote_state(quote.quote)).state is not MintQuoteState.UNPAID


async def begin_claim(desk: Desk, planner: Planner, quote: Quote, op_id: str) -> bool:
    """Open the operation that mints a quote if the mint says it is paid."""
    answer = await desk.keyring.client(quote.mint).mint_quote_state(quote.id)
    if answer.state is MintQuoteState.UNPAID:
        if quote.expiry is not None and desk.clock.now() > quote.expiry + QUOTE_GRACE_SECONDS:
            async with desk.db.transaction() as tx:
                await queries.set_quote_state(tx, quote.id, "expired")
        return False
    await desk.keyring.keysets(quote.mint)
    request = Request(
        op_id, Kind.MINT, quote.mint, "job payment" if quote.job_id else "fund", quote.job_id,
        quote_id=quote.id, keep_sat=quote.amount_sat,
    )  # fmt: skip
    plan = await planner.plan_mint(request)
    async with desk.db.transaction() as tx:
        await planner.record(tx, plan)
        await queries.set_quote_state(tx, quote.id, "claimed")
    return True


async def ask_price(desk: Desk, mint: str, bolt11: str, total_sat_max: int | None) -> MeltQuoteAnswer:
    """What a mint of ours takes for paying an invoice. Raises as `Wallet.plan_pay`."""
    invoice = parse_invoice(bolt11)
    if invoice.expires_at <= desk.clock.now():
        raise InvalidRequest("the invoice has expired; ask for a new one")
    quote: MeltQuoteAnswer = await desk.keyring.client(mint).melt_quote(bolt11)
    if quote.amount != invoice.amount_sat:
        raise InvalidRequest(
            f"{mint} asks {quote.amount} sat for an invoice over {invoice.amount_sat} sat; use another mint"
        )
    if total_sat_max is not None and quote.amount + quote.fee_reserve > total_sat_max:
        raise LimitExceeded(
            f"paying {quote.amount} sat needs {quote.fee_reserve} sat more for fees, {total_sat_max} sat are all "
            "there are; take an invoice over less"
        )
    return quote
