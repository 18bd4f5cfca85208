"""The default rail: the mints are the gateway. What is paid to us arrives as ecash, what we pay is melted."""

from collections.abc import Mapping
from typing import Any, Final

from store import Clock
from wallet.errors import RailCannot, WalletError
from wallet.mint import MintInfo
from wallet.operations import State
from wallet.queries_rails import Payment
from wallet.rails.rail import Made, RailLimits, Seen, Sent, Verdict, Wish
from wallet.wallet import Wallet
from wallet.witness import is_preimage

FRESH_SECONDS: Final = 3600


class MintRail:
    """NUT-04 and NUT-05 by the wallet: invoices are quotes of our first mint, payments are melts at the fullest.

    A quote's invoice carries neither our words nor a hash of them, and is over whole sats. A limit of fees bounds the
    mint's fee reserve; its input fee of a sat or two comes on top. The wallet does the books.
    """

    name = "mint"
    account = None

    def __init__(self, wallet: Wallet, clock: Clock) -> None:
        self._wallet = wallet
        self._clock = clock
        self._limits: tuple[int, RailLimits] | None = None

    async def limits(self) -> RailLimits:
        """See `Rail.limits`. By what the first mint says of itself."""
        if not self._wallet.mints:
            return RailLimits(makes=False, pays=False)
        now = self._clock.now()
        if self._limits is None or not 0 <= now - self._limits[0] < FRESH_SECONDS:
            self._limits = now, limits_of(await self._wallet.mint_info(self._wallet.mints[0]))
        return self._limits[1]

    async def make_invoice(self, wish: Wish) -> Made:
        """See `Rail.make_invoice`."""
        quote = await self._wallet.mint_quote(
            self._first_mint(), wish.amount_msat // 1000, job_id=wish.job_id
        )
        return Made(quote.bolt11, quote.id)

    async def look(self, handle: str) -> Seen:
        """See `Rail.look`. Settled is what the mint has turned into coins of ours."""
        outcome = await self._wallet.claim(handle)
        if outcome is None or outcome.state is not State.DONE:
            return Seen(settled=False)
        return Seen(settled=True, received_msat=1000 * outcome.received_sat)

    async def pay(self, payment: Payment, *, again: bool) -> Sent:  # noqa: ARG002 - the wallet knows what it began
        """See `Rail.pay`."""
        op_id = f"lightning:{payment.name}"
        whole_sat = -(-payment.amount_msat // 1000)
        limit_msat = payment.fee_max_msat
        try:
            if not await self._wallet.is_recorded(op_id):
                await self._wallet.plan_pay(
                    await self._fullest(), payment.bolt11, op_id=op_id, purpose="pay", job_id=payment.job_id,
                    total_sat_max=None if limit_msat is None else whole_sat + limit_msat // 1000, record=True,
                )  # fmt: skip
            outcome = await self._wallet.settle(op_id)
        except WalletError as error:
            is_begun = await self._wallet.is_recorded(op_id)
            return Sent(Verdict.UNKNOWN if is_begun else Verdict.FAILED, error=str(error))
        if outcome.state is State.DONE:
            rounded_msat = 1000 * whole_sat - payment.amount_msat  # a mint counts in sats
            fee_msat = 1000 * outcome.fee_sat + rounded_msat
            return Sent(Verdict.PAID, fee_msat, await self._preimage(op_id, payment.payment_hash))
        return Sent(Verdict.FAILED, error=outcome.error or "the mint did not pay")

    async def _preimage(self, op_id: str, payment_hash: str) -> str | None:
        """The preimage, if the mint tells it: it is worth a question, and no payment is unclear for want of it."""
        try:
            told = await self._wallet.preimage(op_id)
        except WalletError:
            return None
        return told if told is not None and is_preimage(told, payment_hash) else None

    async def balance_msat(self) -> int:
        """See `Rail.balance_msat`: at all mints together, though one payment takes from one."""
        return 1000 * sum((await self._wallet.balance()).values())

    def _first_mint(self) -> str:
        if not self._wallet.mints:
            raise RailCannot(
                "no mints: name those you trust in tradepost.yaml (mints: […]) or in TRADEPOST_MINTS"
            )
        return self._wallet.mints[0]

    async def _fullest(self) -> str:
        first = self._first_mint()
        by_mint = await self._wallet.balance()
        return max(self._wallet.mints, key=lambda mint: by_mint.get(mint, 0), default=first)


def limits_of(info: MintInfo) -> RailLimits:
    """What a mint says it sells and buys for Lightning (the settings of NUT-04 and NUT-05 for bolt11 and sat)."""
    sells, buys = _setting(info, 4), _setting(info, 5)
    least, most = (_sat(sells.get(name)) for name in ("min_amount", "max_amount"))
    return RailLimits(
        makes=not sells.get("disabled"),
        pays=not buys.get("disabled"),
        min_msat=1000 * max(least or 1, 1),
        max_msat=None if most is None else 1000 * most,
        sub_sat=False,
        description_hash=False,
    )


def _setting(info: MintInfo, nut: int) -> Mapping[str, Any]:
    """A mint that says nothing of it is asked, and may refuse."""
    setting = info.nuts.get(str(nut))
    if not isinstance(setting, dict):
        return {}
    methods = setting.get("methods")
    found = next(
        (m for m in methods if isinstance(m, dict) and (m.get("method"), m.get("unit")) == ("bolt11", "sat")),
        {},
    ) if isinstance(methods, list) else {}  # fmt: skip
    return {**found, "disabled": setting.get("disabled") is True}


def _sat(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
