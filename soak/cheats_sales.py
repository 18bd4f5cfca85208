"""Cheating with sealed results and with invoices; see `cheats.py`."""

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from dvm.jobs.invoices import ZAP_RECEIPT
from dvm.kinds import FEEDBACK
from identity import Event, SecretKey, make_template, sign_event
from identity.seal import Sealed
from wallet.escrow import Effect
from wallet.invoice import parse_invoice
from wallet.rails import Payment, SendState

if TYPE_CHECKING:
    from soak.run import Run

OTHER_KEY: Final = SecretKey(b"\x05" * 32)


def sell_falsely(cheat: str, role: Any) -> None:
    """What a provider does otherwise with a sealed result."""
    sealing, desk = role._sealing, role._desk
    honest_seal, honest_letters, honest_claim = sealing.seal, desk.letters, desk._claim

    def seal(*args: Any) -> Any:
        done = honest_seal(*args)
        ciphertext, promise = done.sealed.ciphertext, done.sealed.promise
        if cheat == "provider: seals something else":
            promise = replace(promise, payload_hash="00" * 32)
        if cheat == "provider: seals rubbish":
            ciphertext = bytes(len(ciphertext))
            promise = replace(promise, ciphertext_hash=hashlib.sha256(ciphertext).hexdigest())
        if cheat == "provider: shows another ciphertext":
            ciphertext = bytes(len(ciphertext))
        return replace(done, sealed=Sealed(ciphertext, promise))

    async def letters(row: Any, then: Effect) -> Any:
        return [] if then is Effect.TELL_KEY else await honest_letters(row, then)

    async def claim(row: Any) -> Any:
        await asyncio.sleep(max(row.terms.locktime - 1 - role._post.clock.now(), 0))
        with patch.object(desk.escrows, "_is_too_late", lambda _row: False):
            return await honest_claim(row)

    if "seals" in cheat or "ciphertext" in cheat:
        sealing.seal = seal
    if cheat == "provider: keeps the key to itself":
        desk.letters = letters
    if cheat == "provider: takes the coins late":
        desk._claim = claim


async def _offer(run: "Run") -> Event:
    """The provider's offer with an invoice."""
    while True:
        for event in run.world.office.events.values():
            if event.kind == FEEDBACK and any(len(tag) > 2 for tag in event.tags_named("amount")):
                return event
        await asyncio.sleep(1)


async def say_that_it_paid(run: "Run") -> None:
    """Zap receipts of its own making for the invoice, which it does not pay."""
    party = run.world["customer"]
    run.world.rails["customer"].refuses = True
    offer = await _offer(run)
    invoice = offer.tags_named("amount")[0][2]
    tags = [("p", run.world["provider"].key), ("e", offer.id), ("bolt11", invoice)]
    for _ in range(3):
        now = party.clock.now()
        await run.world.office.insist(
            sign_event(make_template(ZAP_RECEIPT, tags=tags, created_at=now), OTHER_KEY)
        )
        await asyncio.sleep(10)


async def pay_twice(run: "Run") -> None:
    """By its Lightning wallet what its post pays with coins."""
    invoice = (await _offer(run)).tags_named("amount")[0][2]
    await asyncio.sleep(run.plan.acts_seconds)
    read = parse_invoice(invoice)
    wallet, now = run.world.rails["customer"], run.world["customer"].clock.now()
    payment = Payment(
        "by hand", wallet.name, SendState.ASKED, invoice, read.payment_hash, read.amount_msat, None, None, now
    )
    if not wallet.paid[read.payment_hash]:
        await wallet.pay(payment, again=False)
