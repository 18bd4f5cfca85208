"""A post's open parts, as the drivers of jobs and orders need them. `tradepost.post` opens and closes them."""

from dataclasses import dataclass

from relay_bridge import Fetcher, Inbox, Mailboxes, Outbox, RelayPool
from store import Clock, Database
from wallet import Seed, Wallet
from wallet.rails import Lightning

WRAP_MARGIN_SECONDS = 3 * 86400  # gift wraps are back-dated by up to two days (NIP-59)
PUBLIC_MARGIN_SECONDS = 3600  # requests: clocks that differ, senders whose line was down for a while
NAMED_RELAYS_MAX = 4  # of the relays that somebody names, those that did best are used
ANSWER_MARGIN_SECONDS = 86400  # answers to us: an agent may have been cut off long after it wrote them


@dataclass(frozen=True)
class Post:
    """One node: a database, relays, a fetcher of URLs, a wallet. Shared by all agents and customers of the process."""

    db: Database
    clock: Clock
    pool: RelayPool
    inbox: Inbox
    outbox: Outbox
    mailboxes: Mailboxes
    fetcher: Fetcher
    wallet: Wallet
    lightning: Lightning
    seed: Seed
