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

from dvm import Customer, Order, Update
from dvm.escrow.arbiter import Arbiter
from dvm.kinds import name_of
from identity import LocalSigner
from relay_bridge import EmbeddedRelay
from store import SystemClock
from tradepost.agent_process import agent_process
from tradepost.api import open_customer
from tradepost.demo.receipt import check_receipt
from tradepost.errors import TradepostError
from tradepost.mint_process import MintProcess, mint_python
from tradepost.post import open_database, open_post, own_key, wallet_on
from tradepost.settings import ARBITER, Settings
from wallet import Wallet
from wallet.escrow import Stage
from wallet.ledger import FEES_MINT
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

KIND: Final = 5001
FUNDED_SAT: Final = 100
MAX_SAT: Final = 50
AGENT_SECONDS_MAX: Final = 30.0
JOB_SECONDS_MAX: Final = 60
POLL_SECONDS: Final = 0.05
INPUT_BYTES_MAX: Final = 48_000  # the request is one event, and relays commonly refuse more than 64 KiB


@dataclass(frozen=True)
class Scene:
    """One job of the demo and what became of its money, in sats."""

    method: str
    job_id: str
    price_sat: int
    outcome: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What happened, for the summary. All money in sats; `problems` is what the audits found, `receipt` what the
    standalone verifier said.
    """

    kind: int
    kind_name: str
    input_name: str
    input_words: int
    result: str
    scenes: tuple[Scene, ...]
    funded_sat: int
    customer_sat: int
    agent_sat: int
    mint_fee_sat: int
    problems: tuple[str, ...]
    receipt: tuple[str, ...]

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
        arbiter = await stage.enter_async_context(open_arbiter(_settings(folder / "arbiter", mint, relay)))
        buyer = _settings(folder / "customer", mint, relay, arbiter)
        seller = _settings(folder / "agent", mint, relay, arbiter).model_copy(update={"root_seconds": 1})
        post = await stage.enter_async_context(open_post(buyer))
        with _step(console, f"the customer holds {FUNDED_SAT} sat of ecash, and there is an arbiter"):
            await _fund(post.wallet, mint.url)
        customer = await stage.enter_async_context(open_customer(buyer, post))
        async with AsyncExitStack() as agents:
            with _step(console, "an agent is open for business, in a process of its own"):
                npub = await agents.enter_async_context(_agent(seller))
            console.print(f"  [dim]{npub}[/]")
            market = _Market(console, customer, arbiter, npub, content)
            paid, result = await _in_escrow(market)
            bought = await _sealed(market)
            refused = await _refused(market)
            receipt = await check_receipt(
                console, customer, post.pool, agent=npub, job_id=paid.job_id, folder=folder,
                verifier=examples() / "verify_receipt.py",
            )  # fmt: skip
        customer_sat, customer_fee_sat, found = await _books(post.wallet)
        async with await open_database(seller) as db, wallet_on(seller, db) as wallet:
            agent_sat, agent_fee_sat, found_too = await _books(wallet)
    return Report(
        kind=KIND, kind_name=name_of(KIND), input_name=name, input_words=len(content.split()), result=result,
        scenes=(paid, bought, refused), funded_sat=FUNDED_SAT, customer_sat=customer_sat, agent_sat=agent_sat,
        mint_fee_sat=customer_fee_sat + agent_fee_sat, problems=(*found, *found_too), receipt=receipt,
    )  # fmt: skip


@dataclass(frozen=True)
class _Market:
    console: Console
    customer: Customer
    arbiter: Arbiter
    agent: str
    text: str

    async def ask(self, method: Method, *, review: bool = False) -> Order:
        """Ask for the text to be summarised, and say how it is to be paid."""
        arbiters = (self.arbiter.public_key,) if method is Method.ESCROW else ()
        return await self.customer.ask(
            self.agent, self.text, kind=KIND, max_sat=MAX_SAT, seconds_max=JOB_SECONDS_MAX, review=review,
            settle=(method,), arbiters=arbiters,
        )  # fmt: skip

    async def ended(self, order: Order) -> EscrowRow:
        """Wait until nobody can do anything with the coins of an order any more."""
        async with asyncio.timeout(JOB_SECONDS_MAX):
            while (row := await self.customer.desk.get(order.id)) is None or not row.stage.is_final:
                await SystemClock().sleep(POLL_SECONDS)
            while not await self.customer.desk.escrows.gone(row):
                await SystemClock().sleep(POLL_SECONDS)
        return row


async def _in_escrow(market: _Market) -> tuple[Scene, str]:
    """A job whose price is locked before the work and signed over for the result."""
    market.console.print("\n[bold]A job in escrow[/]")
    started = time.monotonic()
    order = await market.ask(Method.ESCROW)
    market.console.print(
        f"[green]✓[/] the customer publishes a request, kind {KIND} [dim]{order.id[:16]}…[/]"
    )
    async for update in order:
        _show(market.console, update, IN_ESCROW)
    result, seconds = await order.result(), time.monotonic() - started
    row = await market.ended(order)
    market.console.print("[green]✓[/] the customer signs the coins over, the agent swaps them: it is paid")
    return Scene(Method.ESCROW, order.id, row.terms.price_sat, "paid to the agent", seconds), result


async def _sealed(market: _Market) -> Scene:
    """A job whose result is there, sealed, before anything is paid; the payment itself opens it."""
    market.console.print("\n[bold]A sealed result[/]")
    started = time.monotonic()
    order = await market.ask(Method.REVEAL)
    market.console.print(f"[green]✓[/] a customer who has paid before asks again [dim]{order.id[:16]}…[/]")
    async for update in order:
        _show(market.console, update, SEALED)
    await order.result()
    seconds, row = time.monotonic() - started, await market.ended(order)
    return Scene(Method.REVEAL, order.id, row.terms.price_sat, "paid to the agent for its key", seconds)


async def _refused(market: _Market) -> Scene:
    """A job whose result the customer will not pay for; the arbiter agrees."""
    market.console.print("\n[bold]A job that is refused[/]")
    started = time.monotonic()
    order = await market.ask(Method.ESCROW, review=True)
    await order.result()
    market.console.print(f"[green]✓[/] the agent delivers another job in escrow [dim]{order.id[:16]}…[/]")
    await market.customer.dispute(order.id, "I asked for a haiku")
    market.console.print("[green]✓[/] the customer disputes it; both tell the arbiter why, encrypted")
    async with asyncio.timeout(JOB_SECONDS_MAX):
        while (case := await market.arbiter.get(order.id)) is None or case.stage is not Stage.DISPUTED:
            await SystemClock().sleep(POLL_SECONDS)
    await market.arbiter.rule(order.id, 0)
    row = await market.ended(order)
    market.console.print("[green]✓[/] the arbiter rules for the customer, which has its coins again")
    seconds = time.monotonic() - started
    return Scene(Method.ESCROW, order.id, row.terms.price_sat, "refunded by the arbiter's ruling", seconds)


IN_ESCROW: Final = {
    "offer": "the arbiter signs the terms, the agent offers to do it for [bold]{price_sat} sat[/]",
    "paid": "the customer locks ecash for two of three: agent, customer, arbiter",
    "working": "the agent works: {message}",
    "result": "the agent publishes the result",
}
SEALED: Final = {
    "offer": "the agent has done the work and offers it sealed, its key for [bold]{price_sat} sat[/]",
    "paid": "the customer locks ecash that only the key opens",
    "result": "the agent takes the coins, which tells the key: the result is open",
}


def _show(console: Console, update: Update, words: dict[str, str]) -> None:
    if update.step in words:
        message = escape(update.message or "it has checked the coins and their lock")
        told = words[update.step].format(price_sat=update.price_sat, message=message)
        console.print(f"[green]✓[/] {told}")


async def _fund(wallet: Wallet, mint: str) -> None:
    """Ask for an invoice and claim the coins; the demo's mint pays its own invoices."""
    quote = await wallet.mint_quote(mint, FUNDED_SAT)
    while await wallet.claim(quote.id) is None:
        await SystemClock().sleep(0.05)


async def _books(wallet: Wallet) -> tuple[int, int, list[str]]:
    """What a wallet holds, what its mint took in fees, and what an audit finds wrong, the mint asked too."""
    audit = await wallet.audit(ask_mints=True)
    fee_sat = audit.accounts.get(FEES_MINT, 0) // 1000
    return sum((await wallet.balance()).values()), fee_sat, [str(finding) for finding in audit.problems]


def _settings(
    data: Path, mint: MintProcess, relay: EmbeddedRelay, arbiter: Arbiter | None = None
) -> Settings:
    arbiters = () if arbiter is None else (arbiter.public_key,)
    return Settings(relays=(relay.url,), mints=(mint.url,), data=data, arbiters=arbiters)


@asynccontextmanager
async def open_arbiter(settings: Settings) -> AsyncIterator[Arbiter]:
    """An arbiter on a post of its own, in this process."""
    async with open_post(settings) as post:
        arbiter = Arbiter(post, LocalSigner(own_key(settings, ARBITER)))
        await arbiter.start()
        try:
            yield arbiter
        finally:
            await arbiter.stop()


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
