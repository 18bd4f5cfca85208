"""The Lightning rails of a post, by its configuration, and where the connection to a wallet is kept.

Whoever has that connection can spend what the wallet allows: it is in a file of mode 0600 or in the environment, never
in `tradepost.yaml`, which is shown around, and never in a log.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from identity.keyfile import written_aside
from relay_bridge import Connect
from store import Clock, Database
from tradepost.errors import ConfigError
from tradepost.settings import FILE, Settings, make_private
from wallet import InvalidRequest, Wallet
from wallet.rails import Lightning, MintRail, NwcRail, NwcUri, RailLimits, parse_uri


class SalesRail(MintRail):
    """The rail of a post that sells: as `MintRail`, and it sees whether the mint pays its own invoices.

    The Lightning of play mints is faked: an offer would be paid as soon as it is made, and again by its customer.
    """

    _pays_itself: bool | None = None

    async def limits(self) -> RailLimits:
        """See `MintRail.limits`."""
        limits = await super().limits()
        if limits.makes and self._pays_itself is None:
            least_sat = -(-limits.min_msat // 1000)
            self._pays_itself = await self._wallet.pays_itself(self._first_mint(), least_sat)
        return replace(limits, pays_itself=bool(self._pays_itself))


@asynccontextmanager
async def open_lightning(
    settings: Settings,
    db: Database,
    wallet: Wallet,
    clock: Clock,
    *,
    connect: Connect | None = None,
) -> AsyncIterator[Lightning]:
    """The rails that `rails` names, in that order; connects to a wallet without waiting. Raises `ConfigError`."""
    lightning = Lightning(db, clock)
    async with AsyncExitStack() as stack:
        for name in settings.rails:
            if name == "mint":
                lightning.add(MintRail(wallet, clock))
            else:
                rail = NwcRail(find_connection(settings), clock, on_paid=lightning.hear, connect=connect)
                lightning.add(await stack.enter_async_context(rail))
        yield lightning


def find_connection(settings: Settings) -> NwcUri:
    """The connection to the wallet: TRADEPOST_NWC, else the file of the post. Raises `ConfigError`."""
    path = settings.nwc_file
    if settings.nwc is not None:
        if "TRADEPOST_NWC" not in os.environ:
            raise ConfigError(
                f"{FILE}: nwc: a connection that can spend does not belong into a file that is shown around; keep it "
                "with `tradepost wallet connect`, and consider a new one"
            )
        return _parse(settings.nwc.get_secret_value(), "TRADEPOST_NWC")
    if not path.exists():
        raise ConfigError(
            "rails names nwc, and no wallet is connected: `tradepost wallet connect`, or TRADEPOST_NWC"
        )
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} is open to other users, and whoever reads it can spend: chmod 600 {path}")
    return _parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def keep_connection(settings: Settings, text: str) -> NwcUri:
    """Check a connection and store it, in place of the one before. Raises `InvalidRequest`."""
    uri = parse_uri(text)
    make_private(settings.data)
    with written_aside(settings.nwc_file, text.strip() + "\n") as aside:
        aside.replace(settings.nwc_file)
    return uri


def _parse(text: str, where: str) -> NwcUri:
    try:
        return parse_uri(text)
    except InvalidRequest as error:
        raise ConfigError(f"{where}: {error}") from None
