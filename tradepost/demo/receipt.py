"""The last act: the customer says what it thinks, and a program that shares no code with us checks the receipt."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from dvm import Customer
from dvm.reputation.reader import Reader
from identity import parse_public_key
from identity.receipt_file import ReceiptFile, make_file
from relay_bridge import RelayPool
from store import SystemClock
from tradepost.errors import TradepostError

SECONDS_MAX: Final = 30.0
POLL_SECONDS: Final = 0.2
RATING: Final = 5
TEXT: Final = "Short, and nothing that matters is missing."


async def check_receipt(
    console: Console,
    customer: Customer,
    pool: RelayPool,
    *,
    agent: str,
    job_id: str,
    verifier: Path,
    folder: Path,
) -> tuple[str, ...]:
    """Review a job of `agent` (npub), and have `verifier` check the receipt once that is on the relay.

    Returns what the verifier said, line by line. Raises `TradepostError` if it refuses the receipt, or there is none.
    """
    console.print("\n[bold]A receipt that anybody can check[/]")
    review = await customer.review(job_id, RATING, TEXT)
    console.print(
        f"[green]✓[/] the customer reviews the first job, and shows the coins it spent [dim]{review.id[:16]}…[/]"
    )
    file = await _published(pool, agent, job_id, review.id)
    path = folder / "receipt.json"
    path.write_bytes(file.to_json())
    console.print("[green]✓[/] the agent's log has job and review, and a new root of it is on the relay")
    said = await _run(verifier, path, agent)
    console.print(f"[green]✓[/] {verifier.name}, which knows nothing of Tradepost, checks root and receipt:")
    for line in said:
        console.print(f"  [dim]{escape(line)}[/]")
    return said


async def _published(pool: RelayPool, agent: str, job_id: str, review_id: str) -> ReceiptFile:
    """The receipt as soon as the agent has answered the review under a published root."""
    reader = Reader(pool, SystemClock())
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                material = await reader.read(parse_public_key(agent))
                state = material.state
                review = next((event for event in material.events if event.id == review_id), None)
                if state.root and review and any(review_id in text for text in state.texts):
                    return make_file(state.root, state.texts, job_id, review)
                await SystemClock().sleep(POLL_SECONDS)
    except TimeoutError:
        raise TradepostError(f"the agent published no root with the review in {SECONDS_MAX:.0f} s") from None


async def _run(verifier: Path, receipt: Path, agent: str) -> tuple[str, ...]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(verifier), str(receipt), agent,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    said = tuple(out.decode().splitlines())
    if process.returncode:
        raise TradepostError("the receipt does not hold:\n" + "\n".join(said))
    return said
