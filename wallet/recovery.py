"""What really happened at a mint: coins by NUT-07, signatures by NUT-09; decided per coin, never by an error code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wallet.errors import Action, MintError, MintUnavailable
from wallet.mint import BlindSignature, CoinState, ProofStateAnswer
from wallet.operations import Output, Role
from wallet.operations_coins import Made
from wallet.operations_desk import Desk, open_coins
from wallet.proofs import Proof


@dataclass(frozen=True)
class Findings:
    """The inputs' states by Y, and the coins of those attempts that the mint signed; of several the last one counts."""

    states: Mapping[str, ProofStateAnswer]
    made: Mapping[int, tuple[Made, ...]]

    def any_in(self, state: CoinState) -> bool:
        """Whether at least one input is in this state."""
        return any(answer.state is state for answer in self.states.values())

    def all_in(self, state: CoinState) -> bool:
        """Whether every input is in this state."""
        return all(answer.state is state for answer in self.states.values())


async def look(
    desk: Desk, mint: str, inputs: Mapping[str, Proof], attempts: Sequence[Sequence[Output]]
) -> Findings:
    """Ask the mint for the states of the inputs and then for its signatures on all that we ever asked it to sign.

    In this order: a coin that is SPENT has its signatures already, so SPENT and nothing signed means somebody else.
    While all inputs are UNSPENT no signature is ours, whatever there is: another copy of this wallet may have used the
    same counters. Raises `MintUnavailable` when the mint cannot or will not say, or says it by halves.
    """
    client = desk.keyring.client(mint)
    try:
        found = Findings(await client.check_state(list(inputs)), {})
        if inputs and found.all_in(CoinState.UNSPENT):
            return found
        signed = await client.restore([output.message for attempt in attempts for output in attempt])
    except MintError as error:
        raise MintUnavailable(f"{mint} does not say what happened: {error}; try again later") from None
    made: dict[int, tuple[Made, ...]] = {}
    trouble: MintUnavailable | None = None
    for attempt in attempts:
        pairs = [(output, signed[output.blinded]) for output in attempt if output.blinded in signed]
        if pairs:
            try:
                _check_whole(mint, attempt, pairs)
                made[attempt[0].attempt] = await open_coins(desk, mint, pairs)
            except MintUnavailable as error:
                trouble = error
    if trouble and not made:
        raise trouble
    return Findings(found.states, made)


def pending(mint: str) -> MintUnavailable:
    """The error of an operation that the mint is still busy with."""
    return MintUnavailable(
        f"{mint} is still working on it; the coins stay locked meanwhile", action=Action.WAIT
    )


def _check_whole(
    mint: str, attempt: Sequence[Output], pairs: Sequence[tuple[Output, BlindSignature]]
) -> None:
    """A request is signed as a whole; only of blanks the mint signs as many as it owes (NUT-08)."""
    if len(pairs) != len(attempt) and attempt[0].role is not Role.BLANK:
        raise MintUnavailable(
            f"{mint} restored {len(pairs)} of {len(attempt)} signatures; the coins stay locked"
        )
