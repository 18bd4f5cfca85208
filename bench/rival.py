"""The other side: the same free job written by hand on nostr-sdk, nothing of it durable: `python -m bench.rival RELAY`.

Prints its public key once it listens. With `--processing` it says so before each job, as our agent does.
"""

import asyncio
import sys

from nostr_sdk import (
    Client,
    ClientNotification,
    Event,
    EventBuilder,
    Filter,
    Keys,
    Kind,
    RelayUrl,
    ReqTarget,
    Tag,
)

KIND = 5050


async def main(url: str, *, tells: bool) -> None:
    keys = Keys.generate()
    client = Client()
    await client.add_relay(RelayUrl.parse(url), and_connect=True)

    async def publish(kind: int, content: str, tags: list[list[str]]) -> None:
        builder = EventBuilder(Kind(kind), content).tags([Tag.parse(tag) for tag in tags])
        await client.send_event(builder.finalize(keys))

    async def work(request: Event) -> None:
        answers = [["e", request.id().to_hex(), url], ["p", request.author().to_hex()]]
        inputs = [tag for tag in (tag.to_vec() for tag in request.tags()) if tag[0] == "i"]
        result = publish(KIND + 1000, inputs[0][1], [*answers, ["request", request.as_json()], *inputs])
        if tells:
            await asyncio.gather(publish(7000, "", [["status", "processing"], *answers]), result)
        else:
            await result

    notifications = client.notifications()
    await client.subscribe(ReqTarget.auto([Filter().kind(Kind(KIND)).pubkey(keys.public_key()).limit(0)]))
    print(keys.public_key().to_hex(), flush=True)
    async with asyncio.TaskGroup() as jobs:
        while (notification := await notifications.next()) is not None:
            if isinstance(notification, ClientNotification.NEW_EVENT):
                jobs.create_task(work(notification.event))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], tells="--processing" in sys.argv))
