"""The folder `.tradepost-dev`: relay, play mint, arbiter, front desk, a customer with sats. All survive a restart."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from identity import encode_npub
from relay_bridge import EmbeddedRelay
from store import SystemClock
from tradepost.api import open_customer
from tradepost.demo.play import examples, open_arbiter
from tradepost.facade.server import open_facade
from tradepost.mint_process import MintProcess
from tradepost.ports import choose_port
from tradepost.post import open_post, open_wallet
from tradepost.settings import ARBITER, DATA, FILE, Settings, make_private

FOLDER: Final = ".tradepost-dev"
SAMPLE: Final = "summariser"
AGENT: Final = "agent"
DESK: Final = "desk"
FUNDED_SAT: Final = 1000
LOW_SAT: Final = 200  # below it the customer is funded again

_MANIFEST: Final = """\
# The {who} of `tradepost dev`, which writes this file anew at each start.
relays: [{relay}]
mints: [{mint}]
arbiters: [{arbiter}]
"""
_ARBITERS_MANIFEST: Final = """\
# The arbiter of `tradepost dev`, which writes this file anew at each start.
relays: [{relay}]
mints: [{mint}]
arbiter: true
"""
_AGENTS_MANIFEST: Final = """\
# The post of the {who} that `tradepost dev` runs, which writes this file anew at each start.
relays: [{relay}]
mints: [{mint}]
arbiters: [{arbiter}]
data: .
"""


@dataclass(frozen=True)
class Stage:
    """What is running, and where a second terminal finds it."""

    folder: Path
    project: Path
    text: Path
    relay: str
    mint: MintProcess
    arbiter: str  # npub
    desk: str  # its address
    agent: Settings
    customer_sat: int


@asynccontextmanager
async def open_stage(base: Path, project: Path | None, mint_python: Path) -> AsyncIterator[Stage]:
    """Run relay, mint, arbiter and desk in `base`/.tradepost-dev, fund the customer; with no `project` a sample is put
    there.

    The agent's settings have keys of their own: the project's real ones are not touched. Raises `TradepostError` if a
    port is taken, `PostBusy` if the customer's or the arbiter's post is in use, `MintProcessError`.
    """
    folder = base.absolute() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")  # keys and coins, if only for play
    text = Path(shutil.copy(next(examples().glob("*.txt")), folder))
    async with AsyncExitStack() as stack:
        relay_port = choose_port(folder=folder / "relay")
        mint_port = choose_port(folder=folder / "mint")
        relay = await stack.enter_async_context(
            EmbeddedRelay(port=relay_port, path=folder / "relay" / "events")
        )
        mint = await stack.enter_async_context(MintProcess(mint_python, folder / "mint", port=mint_port))
        where = {"relay": relay.url, "mint": mint.url}
        arbiter = await stack.enter_async_context(_open_arbiter(folder / ARBITER, where))
        desk = await stack.enter_async_context(_open_desk(folder / DESK, where, arbiter))
        make_private(folder / AGENT)
        for manifest, who, place in (
            (_MANIFEST, "customer", folder),
            (_MANIFEST, "front desk", folder / DESK),
            (_AGENTS_MANIFEST, "agent", folder / AGENT),
        ):
            told = manifest.format(who=who, **where, arbiter=arbiter)
            (place / FILE).write_text(told, encoding="utf-8")
        customer = Settings(relays=(relay.url,), mints=(mint.url,), data=folder / ".tradepost")
        yield Stage(
            folder=folder,
            project=(project or _sample(folder)).absolute(),
            text=text,
            relay=relay.url,
            mint=mint,
            arbiter=arbiter,
            desk=desk,
            agent=Settings(
                relays=(relay.url,),
                mints=(mint.url,),
                arbiters=(arbiter,),
                data=folder / AGENT,
                root_seconds=1,
            ),
            customer_sat=await _fund(customer, mint.url),
        )


@asynccontextmanager
async def _open_arbiter(folder: Path, where: dict[str, str]) -> AsyncIterator[str]:
    """An arbiter on a post of its own, which its commands find in `folder`; yields its npub."""
    make_private(folder)
    (folder / FILE).write_text(_ARBITERS_MANIFEST.format(**where), encoding="utf-8")
    settings = Settings(relays=(where["relay"],), mints=(where["mint"],), data=folder / DATA)
    async with open_arbiter(settings) as arbiter:
        yield encode_npub(arbiter.public_key)


@asynccontextmanager
async def _open_desk(folder: Path, where: dict[str, str], arbiter: str) -> AsyncIterator[str]:
    """The front desk, on a post of its own: it finds and hires the agent as any customer does. Yields its address."""
    make_private(folder)
    settings = Settings(
        relays=(where["relay"],), mints=(where["mint"],), arbiters=(arbiter,), data=folder / DATA,
        gateway_url=None, gateway_port=choose_port(folder=folder),
    )  # fmt: skip
    async with (
        open_post(settings) as post,
        open_customer(settings, post) as customer,
        open_facade(settings, post, customer, ()),
    ):
        yield settings.gateway_address


def _sample(folder: Path) -> Path:
    """The sample project, where a person may change it."""
    project = folder / SAMPLE
    if not project.exists():
        shutil.copytree(
            examples() / SAMPLE, project, ignore=shutil.ignore_patterns(".tradepost*", "__pycache__")
        )
    return project


async def _fund(customer: Settings, mint: str) -> int:
    """See that the customer has something to spend; returns what it has."""
    async with open_wallet(customer) as wallet:
        if sum((await wallet.balance()).values()) < LOW_SAT:
            quote = await wallet.mint_quote(mint, FUNDED_SAT)
            while await wallet.claim(quote.id) is None:  # the mint pays its own invoices
                await SystemClock().sleep(0.05)
        return sum((await wallet.balance()).values())
