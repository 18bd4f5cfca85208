"""A customer in a process of its own: `buyer.py NPUB COUNT` buys COUNT jobs and ends when it has their results.

Killed and run again it goes on with the jobs it has asked for, and asks for those it has not.
"""

import asyncio
import json
import sys

from dvm import queries
from dvm.nip90 import parse_request
from tradepost.api import open_customer
from tradepost.logs import configure_logs
from tradepost.post import open_post
from tradepost.settings import Settings


async def main(npub: str, count: int) -> None:
    settings = Settings.load()
    async with open_post(settings) as post, open_customer(settings, post) as customer:
        print(json.dumps({"pubkey": customer.public_key}), flush=True)
        asked = {
            parse_request(row.request).inputs[0].data for row in await queries.recent_orders(post.db, count)
        }
        orders = await customer.open_orders()
        for number in range(count):
            if str(number) not in asked:
                orders.append(await customer.ask(npub, str(number), kind=5001, max_sat=25))
        await asyncio.gather(*(order.result() for order in orders))


configure_logs()
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
