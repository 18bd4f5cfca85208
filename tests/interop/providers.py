"""Agents that are not ours, made of nostr-sdk: as NIP-90 is written, and as deployed Python frameworks behave."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import nostr_sdk
import websockets

Request = dict[str, Any]
Invoice = tuple[str, Callable[[], Awaitable[bool]]]  # the invoice, and whether it is paid


@dataclass
class ForeignAgent:
    """Shouts. `invoice(msat)` makes it charge; `is_deployed` makes it as deployed ones are, else by the letter.

    Deployed ones encrypt with NIP-04 whatever they were sent, ask their own price whatever was bid and pass over a
    lower bid in silence, say `processing` only once they are paid, put more tags on results, and know no own tags of
    anybody's.
    """

    relay: str
    is_deployed: bool = False
    price_sat: int = 0
    invoice: Callable[[int], Awaitable[Invoice]] | None = None
    keys: nostr_sdk.Keys = field(default_factory=nostr_sdk.Keys.generate)
    requests: list[Request] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.keys.public_key().to_hex()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ForeignAgent"]:
        async with websockets.connect(self.relay) as socket:
            await socket.send(json.dumps(["REQ", "jobs", {"kinds": [5001], "#p": [self.key]}]))
            while json.loads(await socket.recv())[0] != "EOSE":
                pass
            serving = asyncio.create_task(self._serve(socket))
            try:
                yield self
            finally:
                serving.cancel()
                with suppress(asyncio.CancelledError):
                    await serving

    async def _serve(self, socket: websockets.ClientConnection) -> None:
        async for message in socket:
            kind, *rest = json.loads(message)
            if kind == "EVENT":
                self.requests.append(rest[1])
                async for event in self._work(rest[1]):
                    await socket.send(json.dumps(["EVENT", json.loads(event.as_json())]))

    async def _work(self, request: Request) -> AsyncIterator[nostr_sdk.Event]:
        tags = self._read(request)
        bids = [int(tag[1]) for tag in tags if tag[0] == "bid"]
        if self.invoice is not None:
            if self.is_deployed and bids and bids[0] < 1000 * self.price_sat:
                return
            bolt11, is_paid = await self.invoice(self.price_sat)
            yield self._feedback(request, "payment-required", ["amount", str(1000 * self.price_sat), bolt11])
            while not await is_paid():
                await asyncio.sleep(0.05)
        yield self._feedback(request, "processing")
        text = next(tag[1] for tag in tags if tag[0] == "i")
        yield self._result(request, text.upper())

    # Privacy

    def _read(self, request: Request) -> list[list[str]]:
        if ["encrypted"] not in request["tags"]:
            return list(request["tags"])
        peer, secret = nostr_sdk.PublicKey.parse(request["pubkey"]), self.keys.secret_key()
        decrypt = nostr_sdk.nip04_decrypt if "?iv=" in request["content"] else nostr_sdk.nip44_decrypt
        return request["tags"] + list(json.loads(decrypt(secret, peer, request["content"])))

    def _encrypt(self, request: Request, text: str) -> str:
        peer, secret = nostr_sdk.PublicKey.parse(request["pubkey"]), self.keys.secret_key()
        if self.is_deployed:
            return nostr_sdk.nip04_encrypt(secret, peer, text)
        return nostr_sdk.nip44_encrypt(secret, peer, text, nostr_sdk.Nip44Version.V2)

    # Answers

    def _feedback(self, request: Request, status: str, *tags: list[str]) -> nostr_sdk.Event:
        said = [["status", status], *tags]
        if ["encrypted"] not in request["tags"]:
            return self._event(request, 7000, "", said)
        inside = [*said, ["content", ""]] if self.is_deployed else said
        return self._event(
            request, 7000, self._encrypt(request, json.dumps(inside)), [["encrypted"], ["status", status]]
        )

    def _result(self, request: Request, text: str) -> nostr_sdk.Event:
        tags = [["request", json.dumps(request)]]
        if self.is_deployed:
            tags += [
                ["status", "success"],
                ["alt", "This is the result of a NIP90 DVM task"],
                ["client", "x"],
            ]
        if ["encrypted"] in request["tags"]:
            return self._event(request, 6001, self._encrypt(request, text), [*tags, ["encrypted"]])
        return self._event(request, 6001, text, tags)

    def _event(self, request: Request, kind: int, content: str, tags: list[list[str]]) -> nostr_sdk.Event:
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content).tags(
            [nostr_sdk.Tag.parse(tag) for tag in (["e", request["id"]], ["p", request["pubkey"]], *tags)]
        )
        return builder.finalize(self.keys)
