"""One party of escrows in a process of its own: `party.py customer|provider|arbiter STOP_FILE`. DIE_AT=n: SIGKILL itself.

It dies right after its n-th point: a commit, a message to a relay that is sent, an answer of the mint that is there. Run
again on the same files it goes on. The customer asks one job after the other until STOP_FILE exists and all have ended.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dvm import Agent, Customer, Job, JobFailed, Post, Provider, ProviderLimits, queries
from dvm.errors import BadRequest
from dvm.escrow.arbiter import Arbiter
from identity import LocalSigner
from relay_bridge.transport import Socket, connect_websocket
from store import Transaction
from tradepost.logs import configure_logs
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from wallet import HttpTransport, WalletError
from wallet.escrow import Role, Stage
from wallet.terms import Method

PRICE_SAT = 7
FUNDED_SAT = 5000
OPEN_ORDERS_MAX = 2
AWARDS = (0, PRICE_SAT, 3)
left = int(os.environ.get("DIE_AT", "-1"))


def pass_point() -> None:
    global left  # noqa: PLW0603 - one count for the process
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1


async def connect(url: str) -> Socket:
    socket = await connect_websocket(url)
    send = socket.send

    async def counted(text: str) -> None:
        await send(text)
        if text.startswith('["EVENT"'):
            pass_point()

    socket.send = counted  # type: ignore[method-assign]
    return socket


class CountedTransport(HttpTransport):
    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await super().request(method, path, body)
        pass_point()
        return answer


def count_commits(post: Post) -> None:
    transaction = post.db.transaction

    @asynccontextmanager
    async def counted() -> AsyncIterator[Transaction]:
        async with transaction() as tx:
            yield tx
        pass_point()

    post.db.transaction = counted  # type: ignore[method-assign]


async def buy(post: Post, signer: LocalSigner, provider: str, arbiter: str, stop: Path) -> None:
    """Ask in turn for work that is good, work that fails, work that is disputed, and a sealed result once we may."""
    customer = Customer(signer, post)
    await customer.start()
    print("up", flush=True)
    while True:
        orders = await queries.recent_orders(post.db, 1000)
        still_open = [row for row in orders if not row.state.is_final]
        if (
            not still_open
            and stop.exists()
            and not await customer.desk.escrows.open(Role.CUSTOMER, signer.public_key)
        ):
            break
        if len(still_open) < OPEN_ORDERS_MAX and not stop.exists():
            number = len(orders)
            await customer.ask(
                provider, str(number), kind=5050 if number % 4 == 1 else 5001, max_sat=20,
                settle=(Method.REVEAL, Method.ESCROW) if number % 4 == 3 else (Method.ESCROW,),
                arbiters=[arbiter], review=number % 4 == 2,
            )  # fmt: skip
        for row in await customer.desk.escrows.open(Role.CUSTOMER, signer.public_key):
            if row.stage is Stage.DELIVERED:
                try:
                    await customer.dispute(row.request_id, "no")
                except BadRequest:
                    continue
        await asyncio.sleep(0.05)
    await customer.stop()


async def sell(post: Post, signer: LocalSigner, arbiter: str) -> None:
    agent = Agent("Upper")

    @agent.serves(kind=5001, price_sat=PRICE_SAT)
    async def shout(job: Job) -> str:
        return job.text.upper()

    @agent.serves(kind=5050, price_sat=PRICE_SAT)
    async def fail(job: Job) -> str:
        raise JobFailed("cannot")

    limits = ProviderLimits(arbiters=(arbiter,), arrange_seconds=120, reveal_msat_max=1000 * FUNDED_SAT)
    await Provider(agent, signer, post, limits).start()
    print("up", flush=True)
    await asyncio.Event().wait()


async def judge(post: Post, signer: LocalSigner) -> None:
    arbiter = Arbiter(post, signer)
    await arbiter.start()
    print("up", flush=True)
    while True:
        for row in await arbiter.escrows.open(Role.ARBITER, signer.public_key):
            if row.stage is Stage.DISPUTED:
                try:
                    await arbiter.rule(row.request_id, AWARDS[int(row.request_id[:2], 16) % 3])
                except (BadRequest, WalletError):
                    continue
        await asyncio.sleep(0.05)


async def main(role: str, stop: Path) -> None:
    settings, keys = Settings.load(), json.loads(os.environ["KEYS"])
    async with open_post(settings, connect=connect, transport=CountedTransport) as post:
        count_commits(post)
        signer = LocalSigner(own_key(settings, role))
        match role:
            case "customer":
                await buy(post, signer, keys["provider"], keys["arbiter"], stop)
            case "provider":
                await sell(post, signer, keys["arbiter"])
            case "arbiter":
                await judge(post, signer)


configure_logs()
asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
