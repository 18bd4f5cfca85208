"""A hundred agents at a relay as strict as public ones: few subscriptions and filters, small messages."""

import asyncio

import pytest

from identity.event import Event
from relay_bridge import gathering
from relay_bridge.messages import Request, parse_client_message, relay_frame
from tests.relay_bridge.test_gathering import URL, agents_at
from tests.relay_bridge.test_inbox import settled
from tradepost.testing.relay import MemoryRelay

AGENTS = 100
SUBSCRIPTIONS_MAX = 20
FILTERS_MAX = 10
MESSAGE_BYTES_MAX = 16_384


class StrictRelay(MemoryRelay):
    """Refuses as strfry does: `CLOSED` for a subscription or a filter too many; a long message ends the connection."""

    def __init__(self, *, filters_max: int = FILTERS_MAX) -> None:
        super().__init__()
        self.filters_max = filters_max
        self.most = 0
        self.refusals: list[str] = []

    def receive(self, connection, frame: str) -> None:
        if len(frame) > MESSAGE_BYTES_MAX:
            self.refusals.append("too long")
            connection.abort()
            return
        message = parse_client_message(frame)
        if isinstance(message, Request) and (refusal := self.strictly(connection, message)):
            self.refusals.append(refusal)
            connection.push(relay_frame("CLOSED", message.subscription, f"ERROR: {refusal}"))
            return
        super().receive(connection, frame)
        self.most = max(self.most, len(connection.subscriptions))

    def strictly(self, connection, request: Request) -> str:
        if len(request.filters) > self.filters_max:
            return "too many filters"
        is_new = request.subscription not in connection.subscriptions
        too_many = is_new and len(connection.subscriptions) >= SUBSCRIPTIONS_MAX
        return "too many concurrent REQs" if too_many else ""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(gathering, "_LINGER_SECONDS", 0.1)


async def test_a_hundred_agents_stay_within_what_it_allows(clock, db, make, eventually):
    relay = StrictRelay()
    async with agents_at(relay, clock, db, make, AGENTS) as (agents, pool):
        wraps, requests = list[Event](), list[Event]()

        async def all_hear(*, ago: int) -> None:
            new = [*agents.wraps_for_all(ago=ago), make(ago=ago)]
            wraps.extend(new[:-1])
            requests.append(new[-1])
            for event in new:
                relay.insert(event)
            await eventually(lambda: agents.have(wraps, requests), 30)

        starting = asyncio.create_task(agents.start())
        await all_hear(ago=9)  # while they come
        await starting
        for ago in (7, 5):
            relay.drop_connections()
            await all_hear(ago=ago)  # while the connection is away, and all ask at once
        await eventually(lambda: relay.subscriptions <= 2)
        await all_hear(ago=3)
        assert relay.refusals == []
        assert SUBSCRIPTIONS_MAX - 6 < relay.most <= SUBSCRIPTIONS_MAX
        assert pool.health()[URL].closed == 0
        await settled(db, eventually, 2 * AGENTS * 4)


async def test_many_agents_at_a_relay_that_takes_two_filters(clock, db, make, eventually):
    relay = StrictRelay(filters_max=2)
    async with agents_at(relay, clock, db, make, 40) as (agents, _):
        await agents.start()
        wraps = agents.wraps_for_all(ago=5)
        for event in wraps:
            relay.insert(event)
        await eventually(lambda: agents.have(wraps, []), 20)
        relay.drop_connections()
        wraps += agents.wraps_for_all(ago=3)
        for event in wraps[40:]:
            relay.insert(event)
        await eventually(lambda: agents.have(wraps, []), 20)
        assert set(relay.refusals) == {"too many filters"}
        assert relay.most <= SUBSCRIPTIONS_MAX
