"""An agent whose work is commands, hostile ones too, in a market: neighbours are served, and the money is right."""

import asyncio

import pytest

from dvm import Agent, OrderFailed, OrderState
from dvm.runners import SandboxLimits, command
from tradepost.testing import Market

PRICE_SAT = 10
LIMITS = SandboxLimits(seconds=1, memory_mb=64, processes=16, disk_mb=5)
HOSTILE = {
    5601: "b() { b | b & }; b; wait; sleep 60",
    5602: "yes",
    5603: "kill -9 -1; kill -9 1; kill -STOP $$; sleep 60",
    5604: "cat /dev/zero | tail > output.json",
    5605: "while true; do cat /dev/zero > /task/$RANDOM$(date +%N); done",
}


@pytest.mark.usefixtures("sandbox")
async def test_hostile_commands_harm_nobody(market: Market) -> None:
    agent = Agent("Commands")
    agent.serves(5001, PRICE_SAT)(command("sh", "-c", "tr a-z A-Z < input.json > output.json"))
    for kind, script in HOSTILE.items():
        agent.serves(kind, PRICE_SAT)(command("sh", "-c", script, limits=LIMITS))
    provider = await market.open(agent)
    customer = await market.customer(sat=500)

    async def fail(kind: int) -> OrderState:
        order = await customer.ask(provider.public_key, "text", kind=kind, max_sat=PRICE_SAT)
        with pytest.raises(OrderFailed, match="came back"):
            await order.result()
        return order.state

    async def succeed() -> str:
        order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=PRICE_SAT)
        return await order.result()

    async with asyncio.timeout(30):
        failing = [asyncio.create_task(fail(kind)) for kind in HOSTILE]
        results = await asyncio.gather(*(succeed() for _ in range(4)))
        states = await asyncio.gather(*failing)
    assert all('"TEXT":"HELLO"' in result for result in results)
    assert set(states) == {OrderState.REFUNDED}
    sold = sum((await provider._post.wallet.balance()).values())
    bought = sum((await customer._post.wallet.balance()).values())
    assert bought + sold + market.mint.fees_sat == 500
    assert bought <= 500 - 4 * PRICE_SAT
    assert (await provider._post.wallet.audit(ask_mints=True)).ok
    assert (await customer._post.wallet.audit(ask_mints=True)).ok
