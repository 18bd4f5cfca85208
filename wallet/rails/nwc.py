"""Somebody's Lightning wallet as a rail, by Nostr Wallet Connect (NIP-47)."""

from collections.abc import Callable
from typing import Any, Final, Self

from relay_bridge import Connect
from store import Clock
from wallet.errors import RailRefused, RailUnavailable
from wallet.queries_rails import Payment
from wallet.rails.nwc_line import NotSent, NwcLine
from wallet.rails.nwc_wire import NwcUri, Stage, fitting_preimage, msat, parse_transaction
from wallet.rails.rail import Made, RailLimits, Seen, Sent, Verdict, Wish

PAY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 20.0
#: Refusals after which a payment is certainly not made; any other (PAYMENT_FAILED for a timeout, say) is looked up.
REFUSALS: Final = frozenset(
    {
        "RATE_LIMITED", "NOT_IMPLEMENTED", "INSUFFICIENT_BALANCE", "QUOTA_EXCEEDED", "RESTRICTED", "UNAUTHORIZED",
        "UNSUPPORTED_ENCRYPTION",
    }
)  # fmt: skip


class NwcRail:
    """Use as an async context manager. The money is in that wallet, and the wallet chooses the fees.

    `on_paid` hears of payments to us where the wallet sends notifications; others are found by asking.
    """

    name = "nwc"
    account = "rail/nwc"

    def __init__(
        self, uri: NwcUri, clock: Clock, *, on_paid: Callable[[str], None], connect: Connect | None = None
    ) -> None:
        self._line = NwcLine(uri, clock, on_paid=on_paid, connect=connect)

    async def __aenter__(self) -> Self:
        await self._line.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._line.__aexit__(*exc_info)

    async def limits(self) -> RailLimits:
        """See `Rail.limits`. An invoice that could not be looked up again is not made."""
        methods = (await self._line.info()).methods
        makes = {"make_invoice", "lookup_invoice"} <= methods
        return RailLimits(makes=makes, pays="pay_invoice" in methods, fee_limit=False)

    async def make_invoice(self, wish: Wish) -> Made:
        """See `Rail.make_invoice`."""
        result = await self._line.call(
            "make_invoice", amount=wish.amount_msat, expiry=wish.expiry_seconds,
            description=wish.description or None, description_hash=wish.description_hash,
        )  # fmt: skip
        made = parse_transaction(result)
        if not made.invoice or not made.payment_hash:
            raise RailUnavailable("the wallet made an invoice and did not show it; ask again")
        return Made(made.invoice, made.payment_hash)

    async def look(self, handle: str) -> Seen:
        """See `Rail.look`."""
        found = parse_transaction(await self._line.call("lookup_invoice", payment_hash=handle))
        settled = found.incoming and found.payment_hash == handle and found.stage is Stage.SETTLED
        return Seen(settled, found.amount_msat, found.preimage) if settled else Seen(settled=False)

    async def pay(self, payment: Payment, *, again: bool) -> Sent:
        """See `Rail.pay`. After a crash it only looks: a request may still be on its way."""
        if again:
            return await self._look_up(payment, "it is not known whether the wallet paid", Verdict.UNKNOWN)
        try:
            result = await self._line.call("pay_invoice", seconds_max=PAY_SECONDS, invoice=payment.bolt11)
        except NotSent as error:
            return Sent(Verdict.FAILED, error=str(error))
        except RailRefused as error:
            if error.nwc_code in REFUSALS:
                return Sent(Verdict.FAILED, error=str(error))
            failed = error.nwc_code == "PAYMENT_FAILED"
            return await self._look_up(payment, str(error), Verdict.FAILED if failed else Verdict.UNKNOWN)
        except RailUnavailable as error:
            return await self._look_up(payment, str(error), Verdict.UNKNOWN)
        preimage = fitting_preimage(result.get("preimage"), payment.payment_hash)
        return Sent(Verdict.PAID, msat(result.get("fees_paid")), preimage)

    async def balance_msat(self) -> int:
        """See `Rail.balance_msat`."""
        balance: Any = (await self._line.call("get_balance")).get("balance")
        if not isinstance(balance, int) or isinstance(balance, bool):
            raise RailUnavailable("the wallet's answer to get_balance is none")
        return balance

    async def _look_up(self, payment: Payment, error: str, otherwise: Verdict) -> Sent:
        """What the wallet knows of a payment; `otherwise` if it does not know it (many know only what came in)."""
        try:
            found = parse_transaction(
                await self._line.call(
                    "lookup_invoice", seconds_max=LOOK_SECONDS, payment_hash=payment.payment_hash
                )
            )
        except RailRefused:
            return Sent(otherwise, error=error)
        except RailUnavailable:
            return Sent(Verdict.UNKNOWN, error=error)
        if found.incoming or found.payment_hash != payment.payment_hash:
            return Sent(otherwise, error=error)
        match found.stage:
            case Stage.SETTLED:
                return Sent(Verdict.PAID, found.fees_msat, found.preimage)
            case Stage.FAILED:
                return Sent(Verdict.FAILED, error=error)
            case Stage.PENDING:
                return Sent(Verdict.UNKNOWN, error=error)
