"""Settling a swap (NUT-03): send, redeem, return and reclaim are all this one exchange."""

from collections.abc import Mapping, Sequence
from typing import Final

from wallet import queries
from wallet.errors import InvalidKeyset, MintError, MintUnavailable, UnknownMint, WalletError
from wallet.keysets import Keyset, input_fee
from wallet.mint import CoinState
from wallet.operations import Kind, Output, Role, share
from wallet.operations_coins import Made, wanted_coins
from wallet.operations_desk import Desk, add_attempt, close_done, close_failed, close_lost, open_coins
from wallet.proofs import Proof
from wallet.queries import Operation
from wallet.recovery import look, pending

ASKS_MAX: Final = 4
REFUSALS_MAX: Final = 2  # each is answered with new outputs; the next refusal is final


async def settle_swap(desk: Desk, op: Operation, *, fresh: bool) -> None:
    """Drive an open swap to its end. `fresh`: the mint was certainly never asked, so ask before looking.

    Raises `MintUnavailable` when the end cannot be told yet. Dying at any line leaves the operation open, its inputs
    and every attempt's outputs on disk: the next call finds by NUT-07 and NUT-09 what the mint did.
    """
    inputs = await queries.held_proofs(desk.db, op.op_id)
    attempts = await queries.outputs(desk.db, op.op_id)
    trouble: WalletError | None = None
    refusals = 0
    for round_number in range(ASKS_MAX):
        if fresh or round_number > 0:
            try:
                made = await ask_swap(desk, op.mint, inputs, attempts[-1])
            except MintError as error:
                trouble, refusals = error, refusals + 1
            except MintUnavailable as error:
                trouble = error
            else:
                return await close_done(desk, op, inputs, made)
        found = await look(desk, op.mint, inputs, attempts)
        if found.any_in(CoinState.SPENT):
            if found.made:
                return await close_done(desk, op, inputs, found.made[max(found.made)])
            return await close_lost(desk, op, inputs, found.states)
        if found.any_in(CoinState.PENDING):
            raise pending(op.mint)
        if isinstance(trouble, MintError):
            final = op.kind is Kind.PROBE or refusals > REFUSALS_MAX
            outputs = None if final else await _next_attempt(desk, op, inputs, attempts)
            if outputs is None:
                return await close_failed(desk, op, inputs, (), error=str(trouble))
            attempts.append(outputs)
    raise MintUnavailable(
        f"{op.mint} gives no clear answer ({trouble}); the coins stay locked, try again later"
    )


async def ask_swap(
    desk: Desk, mint: str, inputs: Mapping[str, Proof], outputs: Sequence[Output]
) -> tuple[Made, ...]:
    """One request. Raises `MintError` for a refusal, `MintUnavailable` for anything else that is not coins."""
    client = desk.keyring.client(mint)
    signatures = await client.swap(list(inputs.values()), [output.message for output in outputs])
    return await open_coins(desk, mint, list(zip(outputs, signatures, strict=True)))


async def refresh_keysets(desk: Desk, mint: str) -> Mapping[str, Keyset]:
    """The mint's keysets as they are now; a mint that cannot show them in order is unavailable."""
    try:
        return await desk.keyring.refresh(mint)
    except (InvalidKeyset, UnknownMint, MintError) as error:
        raise MintUnavailable(f"the keysets of {mint} cannot be read: {error}") from None


async def _next_attempt(
    desk: Desk, op: Operation, inputs: Mapping[str, Proof], attempts: Sequence[Sequence[Output]]
) -> list[Output] | None:
    """New outputs after a refusal: the keyset may have been rotated, its fee changed, or an output stuck at the mint.

    None if the inputs do not reach any more.
    """
    keysets = await refresh_keysets(desk, op.mint)
    total = sum(proof.amount for proof in inputs.values())
    fee = input_fee(inputs.values(), keysets)
    shares = share(op.kind, total, fee, send_sat=op.send_sat, keep_sat=op.keep_sat)
    if shares is None:
        return None
    # A send makes again the very coins that its caller asked for; what a return sends depends on the fee.
    same = (
        [output.amount for output in attempts[0] if output.role is Role.SEND] if op.kind is Kind.SEND else ()
    )
    wanted = wanted_coins(send_sat=shares[0], keep_sat=shares[1], amounts=same)
    return await add_attempt(desk, op, len(attempts), wanted)
