"""Bugs that are planted on purpose: the simulation must find each of them, or it proves nothing.

Each is a change of one line of the core, as a mutation test would make it. A plant whose line is not there any more
fails loudly: find its new place.
"""

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Plant:
    """`what` went wrong: in `place` (module:Class.function), `line` became `instead`. `seed`: where it showed last;
    `scenario`: the one of `points.py` that shows it, for what few seeds come upon.
    """

    what: str
    place: str
    line: str
    instead: str
    seed: int = 0
    scenario: str = ""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The core with the bug in it."""
        module_name, path = self.place.split(":")
        module = importlib.import_module(module_name)
        *owners, name = path.split(".")
        owner: Any = module
        for one in owners:
            owner = getattr(owner, one)
        original = inspect.getattr_static(owner, name)
        source = textwrap.dedent(inspect.getsource(getattr(original, "__func__", original)))
        if source.count(self.line) != 1:
            raise LookupError(f"{self.what}: {self.place} has not one {self.line!r}")
        code = source.replace(self.line, self.instead).replace("super()", f"super({'.'.join(owners)}, self)")
        namespace: dict[str, Any] = {}
        function = getattr(original, "__func__", original)
        exec(compile(code, f"<{self.what}>", "exec"), function.__globals__, namespace)
        places: list[Any] = [owner]
        if not owners:  # others have it under its name, too
            places = [other for other in sys.modules.values() if getattr(other, name, None) is original]
        for place in places:
            setattr(place, name, namespace[name])
        try:
            yield
        finally:
            for place in places:
                setattr(place, name, original)


PLANTS: Final = (
    Plant(
        "the lock of coins that come is not checked",
        "wallet.operations_foreign:examine", "check_lock(proof.secret, lock)", "pass",
        seed=9,
    ),
    Plant(
        "too few coins are as good as enough",
        "dvm.escrow.parties:ProviderDesk.funded", "good.net_sat < terms.price_sat", "False",
        seed=28,
    ),
    Plant(
        "signatures are not verified",
        "wallet.escrows:Escrows.genuine", "if signers(", "if True or signers(",
        seed=15,
    ),
    Plant(
        "an arbiter may sign one coin of many without a ruling",
        "dvm.escrow.desk:EscrowDesk._has_been_awarded", "and await self._is_all(row, row.signatures)", "",
        seed=7,
    ),
    Plant(
        "a result counts however late it comes to the arbiter",
        "wallet.escrow:_arbiter", "ResultOut()) if now <= terms.deliver_by + MARGIN_SECONDS:", "ResultOut()):",
        seed=1422,
    ),
    Plant(
        "a result counts whoever signed it",
        "dvm.escrow.results:is_result", "event.pubkey == terms.provider and", "",
        seed=76,
    ),
    Plant(
        "a dispute without a ruling has no refund",
        "wallet.escrow:_customer", "case ((Stage.HELD | Stage.OVERDUE | Stage.DISPUTED), Tick())",
        "case ((Stage.HELD | Stage.OVERDUE), Tick())",
        seed=34,
    ),
    Plant(
        "after a restart nobody looks after open escrows",
        "dvm.escrow.desk:EscrowDesk.start", "self.watch(row.request_id)", "pass",
        seed=2,
    ),
    Plant(
        "a claim that was recorded is not looked for",
        "wallet.escrows:Escrows.claim", "if not await self._wallet.is_recorded(op_id):", "if True:",
        seed=16,
    ),
    Plant(
        "a claim is tried once",
        "dvm.escrow.desk:EscrowDesk._follow", "await self._try(self._claim, row, RETRY_SECONDS)",
        "return await self._try(self._claim, row, RETRY_SECONDS)",
        seed=1,
    ),
    Plant(
        "the arbiter signs all for the provider, whatever it ruled",
        "dvm.escrow.arbiter:Arbiter.letters", "set(row.awarded)", "set(left)",
        seed=26,
    ),
    Plant(
        "the arbiter signs nothing when a customer is silent",
        "wallet.escrow:_arbiter",
        "delivered_at):\n            return Decision(Stage.RULED, Effect.SIGN_FOR_PROVIDER)",
        "delivered_at):\n            return Decision(Stage.RULED)",
        seed=22,
    ),
    Plant(
        "letters are not written with the decision that sends them",
        "dvm.escrow.desk:EscrowDesk._writes", "        await self.send(tx, row, events)\n",
        """\
        async def late():
            async with self._post.db.transaction() as later:
                await self.send(later, row, events)
        tx.after_commit(lambda: asyncio.ensure_future(late()))
""",
        seed=168,
    ),
    Plant(
        "a customer that locked its coins does not send them after a restart",
        "dvm.orders.customer:Customer.start",
        "self._tasks.start(self._purchases.pay(row.id), f\"pay:{row.id}\")", "pass",
        seed=1,
    ),
    Plant(
        "the key of a sealed result is told when the customer is soon to be quicker",
        "wallet.escrows:Escrows.claim", "if self._is_too_late(row):", "if False:",
        seed=387,
    ),
    Plant(
        "the key of a sealed result is told for coins with any lock",
        "dvm.escrow.parties:ProviderDesk.funded", "lock=terms.lock,",
        "lock=terms.lock if terms.hash is None else __import__('wallet').parse_lock(token.proofs[0].secret),",
        seed=9,
    ),
    Plant(
        "a customer waits for the key to be told, and asks no mint",
        "dvm.escrow.parties:CustomerDesk._follow", "await self._look_for_key(request_id)", "pass",
        seed=86,
    ),
    Plant(
        "the ciphertext is not compared with what the seal promises",
        "dvm.reveals:sealed_agreement", "or not promise.is_about(ciphertext)", "",
        seed=198,
    ),
    Plant(
        "an invoice counts as paid without the rail's word",
        "wallet.rails.lightning:Lightning.look", "seen = await rail.look(invoice.handle)",
        "seen = Seen(settled=True, received_msat=invoice.amount_msat)",
        seed=24,
    ),
    Plant(
        "a payment that the rail knows nothing of counts as failed",
        "wallet.rails.lightning:Lightning._close", "if sent.verdict is Verdict.UNKNOWN:", "if False:",
        seed=332,
    ),
    Plant(
        "what was paid twice is kept",
        "dvm.jobs.invoices:Invoices._return", "if payment.is_surplus:", "if False:",
        seed=45,
    ),
    Plant(
        "an arbiter that is cut off takes silence for consent",
        "dvm.escrow.arbiter:Arbiter._has_read", "return bool(since) and", "return not since or",
        scenario="escrow: the arbiter was cut off",
    ),
    Plant(
        "whom a ruling awards coins that it has just released does not take them",
        "wallet.escrow:_customer", "(Stage.OVERDUE | Stage.DISPUTED | Stage.CONCEDED), SignaturesCame",
        "(Stage.OVERDUE | Stage.DISPUTED), SignaturesCame",
        scenario="escrow: a dispute that ends as it is ruled, some for each",
    ),
    Plant(
        "the coins a customer names in a dispute are believed",
        "dvm.escrow.arbiter:Arbiter.rule",
        "_reported_coins(row) if provider_sat else _known_coins(row)", "_known_coins(row)",
        seed=207,
    ),
    Plant(
        "a customer can pay for what never came",
        "dvm.escrow.parties:CustomerDesk.wish", "(order is None or order.result is None)", "False",
        scenario="escrow: what never came cannot be paid for",
    ),
)  # fmt: skip
