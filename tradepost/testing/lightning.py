"""A Lightning network in memory: wallets that make, pay and lose invoices, and switches for everything that goes wrong.

network = MemoryLightning()
shop, buyer = network.rail(), network.rail(sat=100)
lightning = Lightning(db, clock, [shop])
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import bolt11 as bolt11_codec

from store import Clock, SystemClock
from wallet.errors import RailUnavailable
from wallet.invoice import parse_invoice
from wallet.queries_rails import Payment
from wallet.rails.rail import Made, RailLimits, Seen, Sent, Verdict, Wish


@dataclass
class _Bill:
    """One invoice of the network."""

    bolt11: str
    payee: "MemoryRail"
    preimage: str = field(repr=False)
    received_msat: int = 0


class MemoryLightning:
    """The invoices of all wallets; an invoice is paid once, whoever pays."""

    def __init__(self, *, clock: Clock | None = None, fee_msat: int = 0) -> None:
        """`fee_msat` is what routing costs, of any amount."""
        self.clock = clock or SystemClock()
        self.fee_msat = fee_msat
        self.bills: dict[str, _Bill] = {}
        self._numbers = count(1)

    def rail(self, *, sat: int = 0, limits: RailLimits | None = None, name: str = "memory") -> "MemoryRail":
        """A wallet on this network with `sat` in it."""
        return MemoryRail(self, 1000 * sat, limits or RailLimits(), name)

    def bill(self, payee: "MemoryRail", wish: Wish, amount_msat: int) -> Made:
        """A new invoice."""
        preimage = hashlib.sha256(f"preimage {next(self._numbers)}".encode()).hexdigest()
        payment_hash = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
        tags = bolt11_codec.Tags()
        tags.add(bolt11_codec.TagChar.payment_hash, payment_hash)
        tags.add(bolt11_codec.TagChar.payment_secret, hashlib.sha256(preimage.encode()).hexdigest())
        if wish.description_hash:
            tags.add(bolt11_codec.TagChar.description_hash, wish.description_hash)
        else:
            tags.add(bolt11_codec.TagChar.description, wish.description)
        tags.add(bolt11_codec.TagChar.expire_time, wish.expiry_seconds)
        invoice = bolt11_codec.Bolt11(
            currency="bc",
            amount_msat=bolt11_codec.MilliSatoshi(amount_msat),
            date=self.clock.now(),
            tags=tags,
        )
        text = bolt11_codec.encode(invoice, "11" * 32)
        self.bills[payment_hash] = _Bill(text, payee, preimage)
        return Made(text, payment_hash)

    def pay(self, bolt11: str, *, extra_msat: int = 0) -> str | None:
        """Somebody pays an invoice, perhaps with more than it asks for; returns the preimage, None if it is paid."""
        invoice = parse_invoice(bolt11)
        bill = self.bills[invoice.payment_hash]
        if bill.received_msat or invoice.expires_at <= self.clock.now():
            return None
        bill.received_msat = invoice.amount_msat + extra_msat
        bill.payee.msat += bill.received_msat
        return bill.preimage


class MemoryRail:
    """One wallet, a `Rail`. Everything is public to the test that owns it.

    Switches: `down` (answers nothing, having done nothing), `refuses` (payments fail for certain), `loses_answers`
    (payments are made, and the answer is lost), `holds` (payments are in flight until `finish`), `forgets` (a payment
    that it does not remember stays unknown), `wrong_amount_msat` (makes invoices over another amount). `asked` counts
    the calls, `paid` the payments that left it, by payment hash.
    """

    account = "rail/memory"

    def __init__(self, network: MemoryLightning, msat: int, limits: RailLimits, name: str) -> None:
        """Use `MemoryLightning.rail`."""
        self.name = name
        self.msat = msat
        self.can = limits
        self.down = self.refuses = self.loses_answers = self.holds = self.forgets = False
        self.wrong_amount_msat = 0
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self._network = network
        self._ended: dict[str, Sent] = {}
        self._held: dict[str, str] = {}

    async def limits(self) -> RailLimits:
        """See `Rail.limits`."""
        self._answer("limits")
        return self.can

    async def make_invoice(self, wish: Wish) -> Made:
        """See `Rail.make_invoice`."""
        self._answer("make_invoice")
        return self._network.bill(self, wish, self.wrong_amount_msat or wish.amount_msat)

    async def look(self, handle: str) -> Seen:
        """See `Rail.look`."""
        self._answer("look")
        bill = self._network.bills[handle]
        return Seen(
            bool(bill.received_msat), bill.received_msat, bill.preimage if bill.received_msat else None
        )

    async def pay(self, payment: Payment, *, again: bool) -> Sent:
        """See `Rail.pay`."""
        self.asked["pay again" if again else "pay"] += 1
        if self.down:
            return Sent(Verdict.UNKNOWN, error="the wallet does not answer")
        if again:
            return Sent(Verdict.UNKNOWN, error="lost") if self.forgets else self._known(payment)
        if payment.fee_max_msat is not None and self._network.fee_msat > payment.fee_max_msat:
            return Sent(Verdict.FAILED, error="routing costs more than the limit")
        if self.refuses or self.msat < payment.amount_msat + self._network.fee_msat:
            return Sent(Verdict.FAILED, error="no route, or no money")
        self.paid[payment.payment_hash] += 1
        self._held[payment.payment_hash] = payment.bolt11
        if not self.holds:
            self.finish()
        return Sent(Verdict.UNKNOWN, error="lost") if self.loses_answers else self._known(payment)

    def finish(self, *, paid: bool = True) -> None:
        """End every payment in flight."""
        for payment_hash, bolt11 in self._held.items():
            preimage = self._network.pay(bolt11) if paid else None
            if preimage:
                self.msat -= parse_invoice(bolt11).amount_msat + self._network.fee_msat
                self._ended[payment_hash] = Sent(Verdict.PAID, self._network.fee_msat, preimage)
            else:
                self._ended[payment_hash] = Sent(Verdict.FAILED, error="the payment did not arrive")
        self._held.clear()

    async def balance_msat(self) -> int:
        """See `Rail.balance_msat`."""
        self._answer("balance")
        return self.msat

    def _known(self, payment: Payment) -> Sent:
        if payment.payment_hash in self._held:
            return Sent(Verdict.UNKNOWN, error="the payment is in flight")
        return self._ended.get(payment.payment_hash, Sent(Verdict.FAILED, error="never asked for"))

    def _answer(self, what: str) -> None:
        self.asked[what] += 1
        if self.down:
            raise RailUnavailable("the wallet does not answer")
