"""The gate of an agent: what is not for it, or comes from somebody who asks too much, goes no further.

Inbox: events of the agent's subscriptions, on their way into the table. Duty: what is dropped here costs no row, no
answer and, where that can be known before, no look at its signature. Who is a customer is read from the payments, so a
restart forgets nobody who paid.
"""

from dvm import queries_invoices
from dvm.jobs.admission import Admission, Refusal, Verdict
from dvm.jobs.room import Neighbour, Standing
from dvm.limits import ProviderLimits
from identity import Event
from store import Clock, Database, Transaction

_REFUSALS_MAX = 10_000


class NoticeGate:
    """The `relay_bridge.Gate` of what is never answered: deletions and receipts. Rates as for requests, but apart."""

    def __init__(self, public_key: str, limits: ProviderLimits, clock: Clock) -> None:
        self._public_key = public_key
        self._clock = clock
        self._admission = Admission(limits)

    def ignores(self, event: Event) -> bool:
        """See `relay_bridge.Gate`."""
        return self._admission.ignores(event, self._clock.now())

    async def admits(self, event: Event, tx: Transaction) -> bool:
        """See `relay_bridge.Gate`."""
        return (await self._judge(event, tx)).admitted

    async def is_customer(self, source: Database | Transaction, key: str) -> bool:
        """Whether this is nobody's fresh key: its owner has paid the agent, or is allowed."""
        return self._admission.is_allowed(key) or await queries_invoices.has_paid(
            source, self._public_key, key
        )

    async def neighbour(self, source: Database | Transaction, key: str, *, pays: bool = False) -> Neighbour:
        """As whom a key asks for a place; `pays`: what it is for costs something."""
        if pays:
            return Neighbour(key, Standing.PAYS)
        await self._meet(source, key)
        is_customer = self._admission.is_customer(key)
        return Neighbour(key, Standing.CUSTOMER if is_customer else Standing.STRANGER)

    def has_paid(self, key: str) -> None:
        """A job was paid for, by this key perhaps: look again."""
        self._admission.forget_stranger(key)

    async def _judge(self, event: Event, tx: Transaction) -> Verdict:
        await self._meet(tx, event.pubkey)
        return self._admission.judge(event, self._clock.now())

    async def _meet(self, source: Database | Transaction, key: str) -> None:
        now = self._clock.now()
        if not self._admission.knows(key, now):
            self._admission.meet(key, now, is_customer=await self.is_customer(source, key))


class RequestGate(NoticeGate):
    """The `relay_bridge.Gate` of one agent's requests: of those that are too many, a few pass to be answered."""

    def __init__(
        self, public_key: str, limits: ProviderLimits, clock: Clock, retires_at: int | None = None
    ) -> None:
        """`retires_at`: when a key that was handed on takes nothing new (unix seconds); until then only what names it,
        as the agent's new key takes the rest.
        """
        super().__init__(public_key, limits, clock)
        self._limits = limits
        self._retires_at = retires_at
        self._refused: dict[str, Refusal] = {}

    def ignores(self, event: Event) -> bool:
        """See `relay_bridge.Gate`."""
        return not self._is_for_us(event) or super().ignores(event)

    async def admits(self, event: Event, tx: Transaction) -> bool:
        """See `relay_bridge.Gate`. An event that is to be refused passes; `refusal` then says why."""
        if not self._is_for_us(event):
            return False
        verdict = await self._judge(event, tx)
        if verdict.refusal and len(self._refused) < _REFUSALS_MAX:
            self._refused[event.id] = verdict.refusal
        return verdict.admitted or event.id in self._refused

    async def refusal(self, source: Database | Transaction, event: Event) -> Refusal | None:
        """Why an event that passed is to be refused, told until `was_refused`.

        After a restart too, if its author owes what is asked of strangers; its rate is not known any more.
        """
        if refusal := self._refused.get(event.id):
            return refusal
        await self._meet(source, event.pubkey)
        return self._admission.owed(event)

    def refuses(self, event: Event) -> bool:
        """Whether an event that passed just now is to be refused."""
        return event.id in self._refused

    def was_refused(self, event: Event) -> None:
        """The refusal is on disk."""
        self._refused.pop(event.id, None)

    def _is_for_us(self, event: Event) -> bool:
        """Whether it is addressed to us or to nobody, and neither old nor of the future."""
        addressed = [tag[1] for tag in event.tags if len(tag) > 1 and tag[0] == "p"]
        if addressed and self._public_key not in addressed:
            return False
        if self._retires_at is not None and (not addressed or self._clock.now() >= self._retires_at):
            return False
        limits, age_seconds = self._limits, self._clock.now() - event.created_at
        return -limits.request_future_seconds_max <= age_seconds <= limits.request_age_seconds_max
