"""A customer made of pynostr alone, as other people's programs are. It knows NIP-90 and nothing of Tradepost.

Takes the same wish and prints the same lines as `customer_nostr_tools.mjs`, except that it cannot read gift wraps.
"""

import json
import sys
import time
from typing import Any

from pynostr.event import Event
from pynostr.filters import Filters, FiltersList
from pynostr.key import PrivateKey
from pynostr.relay_manager import RelayManager

wish: dict[str, Any] = {"params": {}, "seconds": 30, **json.loads(sys.argv[1])}
key = PrivateKey.from_hex(wish["secret_key"]) if "secret_key" in wish else PrivateKey()
code = 4


def show(kind: str, **fields: object) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)


def make_request() -> Event:
    tags = [["i", wish["input"], "text"], *(["param", name, value] for name, value in wish["params"].items())]
    tags += [
        [name, str(wish[field])]
        for name, field in (("p", "to"), ("bid", "bid_msat"), ("cashu", "cashu"))
        if field in wish
    ]
    tags.append(["relays", wish["relay"]])
    event = Event(content="", kind=wish["kind"], tags=tags, created_at=int(time.time()))
    event.sign(key.hex())
    return event


def finish(result: int) -> None:
    global code  # noqa: PLW0603 - pynostr offers a callback and no way to return from its loop
    code = result
    manager.close_connections()


def read(message: list[Any]) -> None:
    """pynostr has checked id, signature and filter before it calls this."""
    if message[0] == "OK" and message[1] == request.id and not message[2]:
        show("rejected", reason=message[3])
        finish(4)
    if message[0] != "EVENT":
        return
    event = message[2]
    if ["p", key.public_key.hex()] not in [tag[:2] for tag in event["tags"]]:
        return
    if event["kind"] == wish["kind"] + 1000:
        show("result", content=event["content"], event=event)
        finish(0)
        return
    status = next((tag for tag in event["tags"] if tag[0] == "status"), ["status", ""])
    show("feedback", status=status[1], info="".join(status[2:3]), event=event)
    if status[1] == "error":
        finish(3)


request = make_request()
manager = RelayManager(timeout=wish["seconds"])
manager.add_relay(wish["relay"], close_on_eose=False, message_callback=read)
filters = FiltersList([Filters(kinds=[7000, wish["kind"] + 1000], event_refs=[request.id])])
manager.add_subscription_on_all_relays("answers", filters)
# Before the connection is open: pynostr sends one waiting message per message that arrives, so on a quiet relay an
# event published later would wait for ever.
manager.publish_event(request)
show("request", event=request.to_dict())
manager.run_sync()
sys.exit(code)
