"""A post's open parts, as the drivers of jobs and orders need them. `tradepost.post` opens and closes them."""

from dataclasses import dataclass

from relay_bridge import Inbox, Outbox, RelayPool
from store import Clock, Database
from wallet import Seed, Wallet

WRAP_MARGIN_SECONDS = 2 * 86400 + 3600  # gift wraps are back-dated by up to two days (NIP-59)
PUBLIC_MARGIN_SECONDS = 900  # other events: clocks that differ, relays that are slow to pass things on


@dataclass(frozen=True)
class Post:
    """One node: a database, relays, a wallet. Shared by all agents and customers of the process."""

    db: Database
    clock: Clock
    pool: RelayPool
    inbox: Inbox
    outbox: Outbox
    wallet: Wallet
    seed: Seed
