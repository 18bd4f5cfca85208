"""What every operation works with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvm import Customer, Post, Provider
from tradepost.settings import Settings

if TYPE_CHECKING:
    from tradepost.facade.agents.catalogue import Catalogue
    from tradepost.facade.agents.readings import Readings
    from tradepost.facade.callers.callers import Callers
    from tradepost.facade.callers.limits import Limits
    from tradepost.facade.callers.logins import Waiters
    from tradepost.facade.callers.replays import Replays
    from tradepost.facade.callers.sessions import Sessions
    from tradepost.facade.jobs.hiring import Hiring
    from tradepost.facade.jobs.watching import Watching
    from tradepost.facade.money.till import Till
    from tradepost.facade.running.metrics import Metrics


@dataclass(frozen=True)
class Desk:
    """The parts of one front desk, each with its duty; made and started by `server.open_facade`.

    `url` is where callers reach it, without a slash at the end; `customer` is who asks for them; `providers` are the
    agents of this very post.
    """

    settings: Settings
    url: str
    post: Post
    customer: Customer
    providers: tuple[Provider, ...]
    callers: "Callers"  # who calls
    sessions: "Sessions"  # tokens
    replays: "Replays"  # signatures that were taken
    limits: "Limits"  # how often
    waiters: "Waiters"  # for wallets that sign in
    till: "Till"  # what they have here
    catalogue: "Catalogue"  # whom they can hire
    readings: "Readings"  # what relays and mints say of those
    hiring: "Hiring"  # what they asked for
    watching: "Watching"  # what becomes of it
    metrics: "Metrics"  # how it goes
    began_at: int  # unix seconds
