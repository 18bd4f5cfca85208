"""Operations on how this desk is: whether it answers, whether it can do its work, and more for its operator."""

from typing import Final

import msgspec

from store import StoreError
from tradepost.facade.desk import Desk
from tradepost.facade.running import queries_metrics as queries
from tradepost.facade.web.operations import Call, Operation, Who
from tradepost.facade.web.problems import Refusal
from tradepost.release import release
from wallet import Action
from wallet.queries_books import free_sat

ENDED_SECONDS: Final = 86_400


class NotReady(Refusal):
    """A part of the desk does not do its work, so that nobody should be sent here."""

    status = 503
    action = Action.RETRY_AFTER


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str = "live"


class Ready(msgspec.Struct, frozen=True):
    """Every part does its work: the database answers, a relay is connected, and answers of agents reach us."""

    status: str = "ready"


class RelayReport(msgspec.Struct, frozen=True):
    """How one of our relays does. `reliability`: the share of what was asked of it lately that it did."""

    url: str
    connected: bool
    since: int
    failures: int
    last_error: str
    reliability: float
    answer_seconds: float | None


class MintReport(msgspec.Struct, frozen=True):
    """One of our mints: whether it answers now, and the coins there that are ours and free."""

    url: str
    reachable: bool
    free_sat: int


class BacklogReport(msgspec.Struct, frozen=True):
    """What is not done yet, and since when the oldest of it waits (unix seconds)."""

    count: int
    oldest_at: int | None


class Report(msgspec.Struct, frozen=True):
    """How the post does. Jobs (ordered of us), orders (of ours) and escrows (by role and stage) are counted by state:
    the open ones, and those begun within a day that have ended. `owed_msat`: what callers have here, by what for.
    """

    version: str
    uptime_seconds: int
    database_bytes: int
    relays: tuple[RelayReport, ...]
    mints: tuple[MintReport, ...]
    backlogs: dict[str, BacklogReport]
    jobs: dict[str, int]
    orders: dict[str, int]
    escrows: dict[str, int]
    payments: dict[str, int]
    owed_msat: dict[str, int]


async def live(_call: Call) -> Alive:
    """Nothing is looked at: who answers is alive."""
    return Alive()


async def ready(call: Call) -> Ready:
    """Raises `NotReady` naming the parts that are not."""
    if missing := await missing_parts(call.desk):
        raise NotReady(f"not ready: {'; '.join(missing)}", retry_after=5)
    return Ready()


async def missing_parts(desk: Desk) -> list[str]:
    """What does not work, in words; nothing if all does."""
    missing = []
    try:
        await desk.post.db.one("SELECT 1")
    except StoreError:
        missing.append("the database does not answer")
    if not any(
        relay.connected for url, relay in desk.post.pool.health().items() if url in desk.post.pool.urls
    ):
        missing.append("no relay is connected")
    elif not desk.customer.is_listening:
        missing.append("the relays have not yet told what agents answered")
    return missing


async def report(call: Call) -> Report:
    """Nothing secret is in it, and nothing of a single caller."""
    desk, now = call.desk, call.desk.post.clock.now()
    since = now - ENDED_SECONDS
    async with desk.post.db.snapshot() as rows:
        counts = [
            _joined(await count(rows, since)) for count in (queries.jobs, queries.orders, queries.escrows)
        ]
        payments, owed = _joined(await queries.payments(rows)), _joined(await queries.caller_money(rows))
        backlogs = {**await queries.backlogs(rows), **await queries.caller_work(rows)}
        coins = await free_sat(rows)
    reached = await desk.metrics.reached_mints()
    jobs, orders, escrows = counts
    return Report(
        version=release(),
        uptime_seconds=now - desk.began_at,
        database_bytes=desk.settings.database.stat().st_size,
        relays=tuple(_relays(desk)),
        mints=tuple(MintReport(url, is_there, coins.get(url, 0)) for url, is_there in reached.items()),
        backlogs={name: BacklogReport(one.count, one.oldest_at) for name, one in backlogs.items()},
        jobs=jobs,
        orders=orders,
        escrows=escrows,
        payments=payments,
        owed_msat=owed,
    )


def _relays(desk: Desk) -> list[RelayReport]:
    health = desk.post.pool.health()
    return [
        RelayReport(
            url, one.connected, one.since, one.failures, one.last_error, one.reliability, one.answer_seconds
        )
        for url in desk.post.pool.urls
        if (one := health.get(url))
    ]


def _joined(counts: queries.Counts) -> dict[str, int]:
    """Of several columns one word: `customer/funded`."""
    return {"/".join(key): number for key, number in counts.items()}


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="live",
        method="GET",
        path="/health/live",
        about="Is the process alive\n\nFor whoever restarts it.",
        handler=live,
        answer=Alive,
        counted=False,
        group="Health",
    ),
    Operation(
        name="ready",
        method="GET",
        path="/health/ready",
        about="Can the desk do its work\n\nFor whoever sends callers here: 503 names the parts that are missing.",
        handler=ready,
        answer=Ready,
        counted=False,
        problems=("not_ready",),
        group="Health",
    ),
    Operation(
        name="report",
        method="GET",
        path="/v1/report",
        about="Get a report of the post\n\nFor its operators, whose keys the configuration names: relays, mints, "
        "backlogs, money owed to callers. No secret is in it.",
        handler=report,
        answer=Report,
        who=Who.OPERATOR,
        costly=True,
        group="Health",
    ),
)
