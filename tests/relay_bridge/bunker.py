"""A remote signer made by hand, in a relay in memory: one that is good, slow, away, or lies."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from identity import (
    Event,
    IdentityError,
    SecretKey,
    make_template,
    nip04,
    nip44,
    sign_event,
)
from identity.nip46 import KIND
from relay_bridge import RelayPool
from relay_bridge.bunker_line import BunkerLine
from store import SystemClock
from tradepost.testing.relay import MemoryRelay

URL = "ws://relay.test"
Answers = Callable[[str, list[str]], object]


class Bunker:
    """Answers on a relay by `says(method, params)`; a str is the result, an Exception the error, None silence."""

    def __init__(self, relay: MemoryRelay) -> None:
        self.key = SecretKey.generate()
        self.user = SecretKey.generate()
        self.asked: list[str] = []
        self.requests: list[tuple[str, str]] = []  # id and client of each
        self.says: Answers = self.honestly
        self.relay = relay
        self._seen: set[str] = set()
        relay.switches.reject = self._hear

    def honestly(self, method: str, params: list[str]) -> object:
        signer = self.user
        match method, params:
            case "connect", _:
                return "ack"
            case "get_public_key", []:
                return self.user.public_key
            case "sign_event", [template]:
                fields = json.loads(template)
                return sign_event(make_template(fields.pop("kind"), **fields), signer).to_json().decode()
            case "nip44_encrypt", [peer, text]:
                return nip44.encrypt(text, nip44.conversation_key(signer, peer))
            case "nip44_decrypt", [peer, text]:
                return nip44.decrypt(text, nip44.conversation_key(signer, peer))
            case "nip04_encrypt", [peer, text]:
                return nip04.encrypt(text, signer, peer)
            case "nip04_decrypt", [peer, text]:
                return nip04.decrypt(text, signer, peer)
        return ValueError(f"unknown method {method}")

    def answer(
        self,
        request: int,
        result: object,
        error: object = "",
        *,
        by: SecretKey | None = None,
        old: bool = False,
    ) -> Event:
        """An answer to request number `request`, sent now."""
        request_id, client = self.requests[request]
        text = json.dumps({"id": request_id, "result": result, "error": error or None})
        key = by or self.key
        content = (
            nip04.encrypt(text, key, client)
            if old
            else nip44.encrypt(text, nip44.conversation_key(key, client))
        )
        event = sign_event(
            make_template(KIND, content=content, tags=[("p", client)], created_at=SystemClock().now()), key
        )
        self.relay.insert(event)
        return event

    def _hear(self, event: Event) -> None:
        """Called by the relay for every event it is given; takes all."""
        if event.kind != KIND or event.tag("p") != self.key.public_key or event.id in self._seen:
            return
        self._seen.add(event.id)
        plain = nip44.decrypt(event.content, nip44.conversation_key(self.key, event.pubkey))
        request = json.loads(plain)
        self.asked.append(request["method"])
        self.requests.append((request["id"], event.pubkey))
        number = len(self.requests) - 1
        try:
            said = self.says(request["method"], request["params"])
        except IdentityError as error:
            said = error
        if isinstance(said, Exception):
            asyncio.get_running_loop().call_soon(self.answer, number, "", str(said))
        elif said is not None:
            asyncio.get_running_loop().call_soon(self.answer, number, said)


@asynccontextmanager
async def line_to(
    bunker: Bunker, pool: RelayPool, clock: object, visits: list[str] | None = None
) -> AsyncIterator[BunkerLine]:
    async with BunkerLine(
        pool, clock, client_key=SecretKey.generate(), remote_key=bunker.key.public_key, relays=[URL],  # type: ignore[arg-type]
        on_visit=(visits if visits is not None else []).append,
    ) as line:  # fmt: skip
        yield line


def template(content: str = "x") -> object:
    return make_template(6001, content=content, tags=[["p", "a"], ["x"]], created_at=1_700_000_000)
