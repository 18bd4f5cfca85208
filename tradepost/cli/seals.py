"""`tradepost escrow proof` and `check`: that an agent sold a false seal, shown to anybody and checked by anybody."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from dvm import queries
from dvm.reveals import fraud_proof
from identity import encode_npub
from identity.seal import FRAUD_PROOF_BYTES_MAX, FraudProof, parse_fraud_proof
from tradepost.cli.output import AsJson, print_json, print_pairs, print_text, quoted
from tradepost.errors import TradepostError
from tradepost.post import read_database
from tradepost.settings import Settings
from wallet import queries_escrows
from wallet.escrow import Role


def register(app: typer.Typer) -> None:
    """Add the commands to those of `tradepost escrow`."""
    app.command(epilog="Example: `tradepost escrow proof 2e98eae4846c > proof.json`")(proof)
    app.command(epilog="Example: `tradepost escrow check proof.json`")(check)


def proof(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the job, or the beginning of one.")],
) -> None:
    """Print the proof that an agent sold you a false seal.

    It is JSON that anybody can check with `tradepost escrow check`. It shows the sealed content to whom you give it.
    """
    found = asyncio.run(_find(job_id.lower()))
    verdict = found.check()
    if not verdict.is_fraud:
        raise TradepostError(f"the agent kept its promise: {verdict.reason}; there is nothing to prove")
    print_text(found.to_json().decode())


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The proof; `-` reads it from stdin.")],
    as_json: AsJson = False,
) -> None:
    """Check somebody's proof that an agent sold a false seal.

    Needs no key, no relay and no mint.

    Exit code 0: the fraud is proved. 1: it is not, and stderr says why.
    """
    accused = parse_fraud_proof(_read(file))
    verdict = accused.check()
    if not verdict.is_fraud:
        raise TradepostError(f"no fraud is proved: {verdict.reason}")
    if as_json:
        print_json(
            {"fraud": True, "reason": verdict.reason, "agent": accused.event.pubkey, "job": accused.event.tag("e"),
             "offer": accused.event.id}
        )  # fmt: skip
        return
    pairs = {
        "fraud": f"proved: {verdict.reason}",
        "agent": encode_npub(accused.event.pubkey),
        "job": accused.event.tag("e") or "",
        "offer": accused.event.id,
    }
    print_pairs((name, quoted(value)) for name, value in pairs.items())


def _read(file: Path) -> bytes:
    """One byte more than is allowed, so that a file that is too long is seen to be."""
    if str(file) == "-":
        return sys.stdin.buffer.read(FRAUD_PROOF_BYTES_MAX + 1)
    with file.open("rb") as opened:
        return opened.read(FRAUD_PROOF_BYTES_MAX + 1)


async def _find(prefix: str) -> FraudProof:
    async with read_database(Settings.load()) as db:
        orders = await queries.find_orders(db, prefix)
        if len(orders) != 1:
            raise TradepostError(
                f"{len(orders)} jobs you asked for begin with {prefix[:64]!r}; `tradepost jobs` lists them"
            )
        escrow = await queries_escrows.get(db, Role.CUSTOMER, orders[0].customer, orders[0].id)
        found = fraud_proof(orders[0], escrow) if escrow else None
    if found is None:
        raise TradepostError(f"no sealed result was bought with job {orders[0].id[:12]}")
    return found
