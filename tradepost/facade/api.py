"""Every operation of the desk."""

from typing import Final

from tradepost.facade.agents import agents, reputations
from tradepost.facade.callers import accounts, logins
from tradepost.facade.jobs import escrows, jobs, reviews
from tradepost.facade.money import balance
from tradepost.facade.running import health
from tradepost.facade.web import pages, well_known
from tradepost.facade.web.operations import Operation
from tradepost.facade.web.reference import with_reference

OPERATIONS: Final[tuple[Operation, ...]] = with_reference(
    (
        *agents.OPERATIONS,
        *jobs.OPERATIONS,
        *escrows.OPERATIONS,
        *reviews.OPERATIONS,
        *balance.OPERATIONS,
        *reputations.OPERATIONS,
        *accounts.OPERATIONS,
        *logins.OPERATIONS,
        *pages.OPERATIONS,
        *health.OPERATIONS,
        *well_known.OPERATIONS,
    )
)
