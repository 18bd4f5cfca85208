"""Settling what has a quote: minting for a paid invoice (NUT-04), paying one (NUT-05, NUT-08)."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from wallet import queries
from wallet.errors import Action, MintError, MintUnavailable, WalletError
from wallet.keysets import input_fee
from wallet.mint import CoinState, MeltQuoteAnswer, MeltQuoteState, MintQuoteState
from wallet.operations import Output, Role
from wallet.operations_coins import Made, wanted_coins
from wallet.operations_desk import Desk, add_attempt, close_done, close_failed, close_lost, open_coins
from wallet.operations_swap import ask_swap, refresh_keysets
from wallet.proofs import Proof
from wallet.queries import Operation
from wallet.recovery import Findings, look, pending

ASKS_MAX: Final = 3
ATTEMPTS_MAX: Final = 10  # a mint that goes on refusing is asked with the last outputs again


def quote_signature(desk: Desk, op_id: str, quote_id: str, outputs: Sequence[Output]) -> str:
    """NUT-20: only the quote's key may mint it. The key is derived from the operation's id."""
    message = quote_id + "".join(output.blinded for output in outputs)
    return desk.seed.job_key("mint-quote", op_id).sign(hashlib.sha256(message.encode()).digest()).hex()


async def settle_mint(desk: Desk, op: Operation, *, fresh: bool) -> None:
    """Drive the minting of a paid quote to its end. Raises `MintUnavailable` while it has none.

    A paid quote is never given up, whatever its expiry and whatever the mint says.
    """
    assert op.quote_id is not None
    client = desk.keyring.client(op.mint)
    attempts = await queries.outputs(desk.db, op.op_id)
    trouble: WalletError | None = None
    for round_number in range(ASKS_MAX):
        if fresh or round_number > 0:
            messages = [output.message for output in attempts[-1]]
            signature = quote_signature(desk, op.op_id, op.quote_id, attempts[-1])
            try:
                signatures = await client.mint(op.quote_id, messages, signature)
                made = await open_coins(desk, op.mint, list(zip(attempts[-1], signatures, strict=True)))
            except (MintError, MintUnavailable) as error:
                trouble = error
            else:
                return await close_done(desk, op, {}, made)
        state = await _mint_quote_state(desk, op)
        if state is MintQuoteState.ISSUED:
            found = await look(desk, op.mint, {}, attempts)
            if found.made:
                return await close_done(desk, op, {}, found.made[max(found.made)])
            return await close_lost(desk, op, {}, {})
        if state is not MintQuoteState.PAID:
            raise pending(op.mint)
        if isinstance(trouble, MintError) and len(attempts) < ATTEMPTS_MAX:
            await refresh_keysets(desk, op.mint)
            wanted = wanted_coins(send_sat=0, keep_sat=op.keep_sat)
            attempts.append(await add_attempt(desk, op, len(attempts), wanted))
    raise MintUnavailable(
        f"{op.mint} was paid and does not mint ({trouble}); the quote is kept, try again later"
    )


async def _mint_quote_state(desk: Desk, op: Operation) -> MintQuoteState:
    assert op.quote_id is not None
    try:
        return (await desk.keyring.client(op.mint).mint_quote_state(op.quote_id)).state
    except MintError as error:
        raise MintUnavailable(f"{op.mint} does not say where the quote stands: {error}") from None


async def settle_melt(desk: Desk, op: Operation, *, fresh: bool) -> None:
    """Drive a payment to its end. `fresh`: the mint was certainly never asked to pay, so ask; else only find out.

    Read are the inputs and then the quote, because the mint pays first and spends after. An unpaid quote could be paid
    by a request still on its way: so the inputs are swapped to fresh coins before they count as ours again.
    Raises `MintUnavailable` while the payment is in flight or unclear.
    """
    assert op.quote_id is not None
    inputs = await queries.held_proofs(desk.db, op.op_id)
    attempts = await queries.outputs(desk.db, op.op_id)
    why = "the payment was interrupted"
    if fresh:
        made, why = await _pay(desk, op, inputs, attempts)
        if made is not None:
            return await close_done(desk, op, inputs, made)
    trouble: WalletError | None = None
    for _ in range(ASKS_MAX):
        found = await look(desk, op.mint, inputs, attempts)
        returned = [made for made in found.made.values() if made[0].role is Role.KEEP]
        if returned and found.any_in(CoinState.SPENT):
            return await close_failed(desk, op, inputs, returned[-1], error=why)
        if found.made and found.all_in(
            CoinState.UNSPENT
        ):  # another copy of this wallet used the same counters
            desk.counted.clear()
        answer = await _melt_quote(desk, op)
        if answer.state is MeltQuoteState.PAID and found.all_in(CoinState.SPENT):
            return await close_done(desk, op, inputs, _change(found))
        if answer.state is not MeltQuoteState.UNPAID or found.any_in(CoinState.PENDING):
            raise pending(op.mint)
        if found.any_in(CoinState.SPENT):
            return await close_lost(desk, op, inputs, found.states)
        if not await _prepare_return(desk, op, inputs, attempts, renew=isinstance(trouble, MintError)):
            return await close_failed(desk, op, inputs, (), error=why)
        try:
            made = await ask_swap(desk, op.mint, inputs, attempts[-1])
        except (MintError, MintUnavailable) as error:
            trouble = error
        else:
            return await close_failed(desk, op, inputs, made, error=why)
    raise MintUnavailable(f"{op.mint} neither pays nor gives the coins back ({trouble}); try again later")


async def _pay(
    desk: Desk, op: Operation, inputs: Mapping[str, Proof], attempts: Sequence[Sequence[Output]]
) -> tuple[tuple[Made, ...] | None, str]:
    """Ask to pay; the change if it is certainly paid, else None and what is known of why."""
    assert op.quote_id is not None
    blanks = attempts[0] if attempts else []
    client = desk.keyring.client(op.mint)
    try:
        answer = await client.melt(op.quote_id, list(inputs.values()), [blank.message for blank in blanks])
        change = answer.change or []
        if answer.state is not MeltQuoteState.PAID or len(change) > len(blanks):
            return None, "the mint did not pay"
        return await open_coins(desk, op.mint, list(zip(blanks, change, strict=False))), ""
    except (MintError, MintUnavailable) as error:
        return None, str(error)


async def _melt_quote(desk: Desk, op: Operation) -> MeltQuoteAnswer:
    assert op.quote_id is not None
    try:
        return await desk.keyring.client(op.mint).melt_quote_state(op.quote_id)
    except MintError as error:
        raise MintUnavailable(
            f"{op.mint} does not say where the payment stands: {error}", action=Action.WAIT
        ) from None


def _change(found: Findings) -> tuple[Made, ...]:
    return next((made for made in found.made.values() if made[0].role is Role.BLANK), ())


async def _prepare_return(
    desk: Desk, op: Operation, inputs: Mapping[str, Proof], attempts: list[list[Output]], *, renew: bool
) -> bool:
    """See that the last attempt takes the inputs back; False if they are not worth the fee of it."""
    keysets = await refresh_keysets(desk, op.mint)
    last = attempts[-1] if attempts else []
    usable = bool(last) and last[0].role is Role.KEEP and keysets[last[0].keyset_id].active
    if usable and (not renew or len(attempts) >= ATTEMPTS_MAX):
        return True
    keep = sum(proof.amount for proof in inputs.values()) - input_fee(inputs.values(), keysets)
    if keep <= 0:
        return False
    attempts.append(await add_attempt(desk, op, len(attempts), wanted_coins(send_sat=0, keep_sat=keep)))
    return True
