"""A customer made of nostr-sdk alone, as other people's programs are. It knows NIP-90 and nothing of Tradepost.

Takes the same wish and prints the same lines as `customer_nostr_tools.mjs`, except that it cannot read gift wraps.
"""

import asyncio
import json
import sys
from typing import Any

import nostr_sdk
from nostr_sdk import Client, ClientNotification, Event, EventBuilder, Filter, Keys, Kind, PublicKey, Tag

wish: dict[str, Any] = {"params": {}, "seconds": 30, **json.loads(sys.argv[1])}
keys = Keys.parse(wish["secret_key"]) if "secret_key" in wish else Keys.generate()


def show(kind: str, **fields: object) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)


def make_request() -> Event:
    private = [
        ["i", wish["input"], "text"],
        *(["param", name, value] for name, value in wish["params"].items()),
    ]
    private += [
        [name, str(wish[field])] for name, field in (("bid", "bid_msat"), ("cashu", "cashu")) if field in wish
    ]
    public = [["relays", wish["relay"]], *([["p", wish["to"]]] if "to" in wish else [])]
    if "encrypt" not in wish:
        return event_of("", [*private, *public])
    return event_of(encrypt(json.dumps(private)), [*public, ["encrypted"]])


def event_of(content: str, tags: list[list[str]]) -> Event:
    return EventBuilder(Kind(wish["kind"]), content).tags([Tag.parse(tag) for tag in tags]).finalize(keys)


def encrypt(text: str) -> str:
    secret, agent = keys.secret_key(), PublicKey.parse(wish["to"])
    if wish["encrypt"] == "nip04":
        return nostr_sdk.nip04_encrypt(secret, agent, text)
    return nostr_sdk.nip44_encrypt(secret, agent, text, nostr_sdk.Nip44Version.V2)


def plain(event: Event) -> str:
    """Its content in clear."""
    content = event.content()
    if not content or ["encrypted"] not in [tag.to_vec() for tag in event.tags()]:
        return content
    decrypt = nostr_sdk.nip04_decrypt if "?iv=" in content else nostr_sdk.nip44_decrypt
    return decrypt(keys.secret_key(), event.author(), content)


def read(event: Event) -> int | None:
    """How it ends, if it does."""
    event.verify()
    shown, content = json.loads(event.as_json()), plain(event)
    if event.kind().as_u16() == wish["kind"] + 1000:
        show("result", content=content, event=shown)
        return 0
    tags = [tag.to_vec() for tag in event.tags()]
    if ["encrypted"] in tags and content:
        tags = [*json.loads(content), *tags]
    status = next((tag for tag in tags if tag[0] == "status"), ["status", ""])
    show("feedback", status=status[1], info="".join(status[2:3]), tags=tags, event=shown)
    return 3 if status[1] == "error" else None


async def ask() -> int:
    client, request = Client(), make_request()
    await client.add_relay(nostr_sdk.RelayUrl.parse(wish["relay"]), and_connect=True)
    notifications = client.notifications()
    answers = (
        Filter().kinds([Kind(7000), Kind(wish["kind"] + 1000)]).pubkey(keys.public_key()).event(request.id())
    )
    await client.subscribe(nostr_sdk.ReqTarget.auto([answers]))
    await client.send_event(request)
    show("request", event=json.loads(request.as_json()))
    while (told := await notifications.next()) is not None:
        if isinstance(told, ClientNotification.NEW_EVENT) and (code := read(told.event)) is not None:
            return code
    return 4


async def main() -> int:
    try:
        return await asyncio.wait_for(ask(), wish["seconds"])
    except TimeoutError:
        return 4


sys.exit(asyncio.run(main()))
