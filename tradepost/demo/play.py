"""The play: a relay and a mint are set up, an agent opens in a process of its own, a customer in this one hires it."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.markup import escape

from dvm import Update, queries
from dvm.kinds import name_of
from relay_bridge import EmbeddedRelay
from store import SystemClock
from tradepost.agent_process import agent_process
from tradepost.api import open_customer
from tradepost.errors import TradepostError
from tradepost.mint_process import MintProcess, mint_python
from tradepost.post import open_database, open_post, wallet_on
from tradepost.settings import Settings
from wallet import Wallet

KIND: Final = 5001
FUNDED_SAT: Final = 100
MAX_SAT: Final = 50
AGENT_SECONDS_MAX: Final = 30.0
JOB_SECONDS_MAX: Final = 60
INPUT_BYTES_MAX: Final = 48_000  # the request is one event, and relays commonly refuse more than 64 KiB


@dataclass(frozen=True)
class Report:
    """What happened, for the summary. All money in sats."""

    job_id: str
    kind: int
    kind_name: str
    input_name: str
    input_words: int
    result: str
    price_sat: int
    funded_sat: int
    customer_sat: int
    customer_fee_sat: int
    agent_sat: int
    agent_fee_sat: int
    job_seconds: float

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


async def play(text: tuple[str, str] | None, console: Console) -> Report:
    """Run the whole main job once, telling each step on `console`. `text` is a name and a text, None for the example.

    Everything lives in a temporary folder and is gone afterwards. Raises `TradepostError`, `OrderFailed`.
    """
    name, content = text or _example_text()
    if len(content.encode()) > INPUT_BYTES_MAX:
        raise TradepostError(f"{name} is too large for one event; at most {INPUT_BYTES_MAX} bytes")
    if not content.strip():
        raise TradepostError(f"{name} is empty; name a text of some pages")
    with tempfile.TemporaryDirectory(prefix="tradepost-demo-") as folder:
        return await _play(Path(folder), name, content, console)


async def _play(folder: Path, name: str, content: str, console: Console) -> Report:
    with _step(console, "the mint's software is installed"):
        python = await mint_python()
    async with AsyncExitStack() as stage:
        with _step(console, "a Cashu mint and a Nostr relay are running"):
            mint = await stage.enter_async_context(MintProcess(python, folder / "mint"))
            relay = await stage.enter_async_context(EmbeddedRelay())
        console.print(f"  [dim]{mint.url}  {relay.url}[/]")
        buyer = Settings(relays=(relay.url,), mints=(mint.url,), data=folder / "customer")
        seller = Settings(relays=(relay.url,), mints=(mint.url,), data=folder / "agent")
        post = await stage.enter_async_context(open_post(buyer))
        with _step(console, f"the customer holds {FUNDED_SAT} sat of ecash"):
            await _fund(post.wallet, mint.url)
        customer = await stage.enter_async_context(open_customer(buyer, post))
        async with AsyncExitStack() as agents:
            with _step(console, "an agent is open for business, in a process of its own"):
                npub = await agents.enter_async_context(_agent(seller))
            console.print(f"  [dim]{npub}[/]")
            started = time.monotonic()
            order = await customer.ask(npub, content, kind=KIND, max_sat=MAX_SAT, seconds_max=JOB_SECONDS_MAX)
            console.print(
                f"[green]✓[/] the customer publishes a request, kind {KIND} [dim]{order.id[:16]}…[/]"
            )
            async for update in order:
                _show(console, update)
            result = await order.result()
            job_seconds = time.monotonic() - started
        customer_books = await _books(post.wallet)
        async with await open_database(seller) as db, wallet_on(seller, db) as wallet:
            agent_books = await _books(wallet)
        bought = await queries.get_order(post.db, order.id)
    assert bought is not None
    return Report(
        job_id=order.id, kind=KIND, kind_name=name_of(KIND), input_name=name, input_words=len(content.split()),
        result=result, price_sat=bought.price_sat, funded_sat=FUNDED_SAT, customer_sat=customer_books[0],
        customer_fee_sat=customer_books[1], agent_sat=agent_books[0], agent_fee_sat=agent_books[1],
        job_seconds=job_seconds,
    )  # fmt: skip


def _show(console: Console, update: Update) -> None:
    told = {
        "offer": f"the agent offers to do it for [bold]{update.price_sat} sat[/]",
        "paid": "the customer pays: ecash locked to the agent's key for this one job, encrypted",
        "working": f"the agent works: {escape(update.message or 'it has swapped the ecash at the mint')}",
        "result": "the agent publishes the result",
    }.get(update.step)
    if told:
        console.print(f"[green]✓[/] {told}")


async def _fund(wallet: Wallet, mint: str) -> None:
    """Ask for an invoice and claim the coins; the demo's mint pays its own invoices."""
    quote = await wallet.mint_quote(mint, FUNDED_SAT)
    while await wallet.claim(quote.id) is None:
        await SystemClock().sleep(0.05)


async def _books(wallet: Wallet) -> tuple[int, int]:
    """What a wallet holds, and what its mint took in fees."""
    fee_sat = sum(entry.fee_sat for entry in await wallet.history())
    return sum((await wallet.balance()).values()), fee_sat


@asynccontextmanager
async def _agent(settings: Settings) -> AsyncIterator[str]:
    """`tradepost up` on the example project, as a person would run it; yields its npub."""
    async with agent_process(examples() / "summariser", settings) as process:
        assert process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(AGENT_SECONDS_MAX):
                line = await process.stdout.readline()
        if not line:
            raise TradepostError("the agent's process did not start; what it said is above")
        yield orjson.loads(line)["npub"]


@contextmanager
def _step(console: Console, done: str) -> Iterator[None]:
    """A spinner while it lasts, a tick when it is done."""
    started = time.monotonic()
    with console.status(f"{done} …"):
        yield
    console.print(f"[green]✓[/] {done} [dim]({time.monotonic() - started:.1f} s)[/]")


def examples() -> Path:
    """The folder of the examples: in the package when it is installed, beside it in a checkout."""
    packaged = Path(__file__).parent.parent / "examples"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples"


def _example_text() -> tuple[str, str]:
    path = next(examples().glob("*.txt"))
    return path.name, path.read_text(encoding="utf-8")
