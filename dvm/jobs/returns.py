"""What goes back to who paid: the coins, their lock, and the message that carries them."""

from dvm.jobs.requests import Requests
from dvm.kinds import CHAT_MESSAGE
from dvm.post import NAMED_RELAYS_MAX, Post
from dvm.queries import JobRow, PaymentRow
from identity import Event, Signer, make_template
from identity.nip59 import wrap
from store import Transaction
from wallet import InsufficientFunds, Lock, Plan, Token, encode_token, parse_token

RETURN_FEE_SAT_MAX = 8


class PaymentReturns:
    """Prepares what one agent sends back; nothing here is decided."""

    def __init__(self, post: Post, signer: Signer, requests: Requests) -> None:
        self._post = post
        self._signer = signer
        self._requests = requests

    async def plan(self, job: JobRow, payment: PaymentRow) -> Plan:
        """Coins of ours worth what we got for the job, less the mint's fee where we cannot bear it ourselves."""
        mint = await self._mint(payment)
        number = 0
        while await self._post.wallet.is_recorded(op_id := f"return:{payment.id}:{number}"):
            number += 1
        for fee_sat in range(min(RETURN_FEE_SAT_MAX, payment.amount_sat)):
            try:
                return await self._post.wallet.plan_send(
                    mint, payment.amount_sat - fee_sat, lock=await self.lock(payment, job),
                    op_id=op_id, purpose="return a payment", job_id=job.id,
                )  # fmt: skip
            except InsufficientFunds as error:
                shortage = error
        raise shortage

    async def _mint(self, payment: PaymentRow) -> str:
        """Where the money came in; for a Lightning invoice, the mint where we have most."""
        if not payment.by_invoice:
            return parse_token(payment.token).mint
        balance = await self._post.wallet.balance()
        return max(self._post.wallet.mints, key=lambda mint: balance.get(mint, 0))

    async def lock(self, payment: PaymentRow, job: JobRow | None) -> Lock | None:
        """Back to the customer's one-job key if it gave one and paid itself; else plain coins, encrypted."""
        if job is None or payment.payer != job.customer:
            return None
        request = await self._requests.read_again(job.request)
        return Lock(request.lock) if request and request.lock else None

    async def wrap(self, payment: PaymentRow, token: Token, kind: str) -> Event:
        """The gift wrap with what goes back: `kind` says whether it is a refund or change."""
        now = self._post.clock.now()
        tags = [("p", payment.payer), ("e", payment.job_id), ("t", kind)]
        tags.append(("subject", f"{kind} for job {payment.job_id[:8]}"))
        message = make_template(CHAT_MESSAGE, content=encode_token(token), tags=tags, created_at=now)
        return await wrap(self._signer, payment.payer, message, now=now)

    async def send(self, tx: Transaction, event: Event, job: JobRow | None) -> None:
        """Put a gift wrap into the outbox: for our relays, the request's, and where the payer takes messages."""
        request = await self._requests.read_again(job.request) if job else None
        relays = [job.relay, *(request.relays if request else ())] if job else []
        listed = self._post.pool.choose(relays, NAMED_RELAYS_MAX)
        await self._post.mailboxes.send(tx, event, event.tag("p") or "", listed)
