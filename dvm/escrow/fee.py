"""The fee of a dispute: the customer orders the hearing from the arbiter, as a job like any other (escrow §1)."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from dvm.escrow.agreement import ARBITRATION
from dvm.escrow.desk import Overtaken
from dvm.escrow.parties import CustomerDesk, fee_is_due
from dvm.orders.order import Order
from identity import SignerUnavailable
from identity.nip19 import RELAY_BYTES_MAX, encode_nprofile
from relay_bridge import usable_relays
from store import Clock, Transaction
from wallet import queries_escrows
from wallet.queries_escrows import EscrowRow
from wallet.terms import Terms

log = structlog.get_logger(__name__)

SIGNER_RETRY_SECONDS: Final = 15


class Ask(Protocol):
    """Orders a job (`Customer.ask`)."""

    async def __call__(
        self,
        target: str,
        text: str,
        *,
        kind: int,
        max_sat: int,
        private: bool,
        seconds_max: int,
        also: Callable[[Transaction, str], Awaitable[None]],
    ) -> Order:
        """The order, which is on disk together with what `also` wrote."""
        ...


def _address(terms: Terms) -> str:
    """The arbiter, and the relays that it signed that it reads."""
    relays = [url for url in usable_relays(terms.arbiter_relays) if len(url) <= RELAY_BYTES_MAX]
    return encode_nprofile(terms.arbiter or "", relays)


async def pay_arbiter(request_id: str, *, desk: CustomerDesk, ask: Ask, clock: Clock) -> None:
    """Order the hearing of our dispute, for the fee that was signed; once, as the order is noted as it is made."""
    while (row := await desk.get(request_id)) is not None and fee_is_due(row):
        left_seconds = row.terms.claim_until - clock.now()

        async def note(tx: Transaction, order_id: str, row: EscrowRow = row) -> None:
            if not await queries_escrows.update(tx, row, fee_order=order_id):
                raise Overtaken

        try:
            if left_seconds <= 0:
                return
            await ask(
                _address(row.terms), request_id, kind=ARBITRATION, max_sat=row.terms.arbiter_fee_sat,
                private=True, seconds_max=left_seconds, also=note,
            )  # fmt: skip
        except Overtaken:
            await clock.sleep(0)  # so that the other's change is committed, and read then
        except SignerUnavailable as error:
            log.warning("fee_not_paid_yet", request=request_id, reason=str(error))
            await clock.sleep(SIGNER_RETRY_SECONDS)
