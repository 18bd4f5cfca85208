"""What the shell offers when Tab is pressed: from this post's own files, never from the network, and never an error.

Typer leaves out what does not begin with what was typed.
"""

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Final

from dvm import queries
from dvm.kinds import NAMES, name_of
from identity import encode_npub
from store import StoreError
from tradepost.errors import TradepostError
from tradepost.post import read_database
from tradepost.settings import Settings

ROWS_MAX: Final = 100

Choices = list[tuple[str, str]]


def _quietly(complete: Callable[[], Choices]) -> Callable[[], Choices]:
    @wraps(complete)
    def choices() -> Choices:
        try:
            return complete()
        except (TradepostError, StoreError, OSError):
            return []

    return choices


def complete_kind() -> Choices:
    """Registered kinds of jobs."""
    return [(str(kind), name) for kind, name in NAMES.items()]


def complete_capability() -> Choices:
    """What kinds of jobs are called, in one word each: a shell would cut them at spaces."""
    return [(name.replace(" ", "-"), f"kind {kind}") for kind, name in NAMES.items()]


@_quietly
def complete_target() -> Choices:
    """Agents that were asked before, then capabilities."""
    orders = asyncio.run(_orders())
    asked = {
        encode_npub(order.provider): f"asked before, {name_of(order.kind)}" for order in reversed(orders)
    }
    return [*asked.items(), *complete_capability()]


@_quietly
def complete_job() -> Choices:
    """The newest jobs by the beginning of their ids."""
    return asyncio.run(_jobs())


@_quietly
def complete_mint() -> Choices:
    """The mints of the configuration."""
    return [(mint, "mint") for mint in Settings.load().mints]


@_quietly
def complete_key() -> Choices:
    """The names of the keys that are stored."""
    return [(path.stem, "key") for path in sorted((Settings.load().data / "keys").glob("*.nsec"))]


async def _orders() -> list[queries.OrderRow]:
    async with read_database(Settings.load()) as db:
        return await queries.recent_orders(db, ROWS_MAX)


async def _jobs() -> Choices:
    async with read_database(Settings.load()) as db:
        sold, mine = await queries.recent_jobs(db, ROWS_MAX), await queries.recent_orders(db, ROWS_MAX)
    told = [(job.created_at, job.id[:12], f"sold, {name_of(job.kind)}, {job.state}") for job in sold]
    told += [
        (order.created_at, order.id[:12], f"bought, {name_of(order.kind)}, {order.state}") for order in mine
    ]
    return [(job_id, about) for _, job_id, about in sorted(told, reverse=True)]
