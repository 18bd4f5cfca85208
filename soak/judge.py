"""What must be so when a run has ended, by the books of the mint and of the parties, and by what the relays have."""

from typing import TYPE_CHECKING, Final

from dvm.reputation.record import Record
from identity import log as logs
from identity.receipts import JobLeaf, parse_leaf
from soak.world import NAMES, RAIL_FEE_SAT, ground
from wallet.books import AuditReport
from wallet.escrow import Stage
from wallet.terms import Method

if TYPE_CHECKING:
    from soak.run import Run

FEES_SAT_MAX: Final = 4  # of one party: three swaps at most, of few coins
HEARING_FEES_SAT_MAX: Final = 4  # the same for a hearing, if it costs anything


class Judge:
    """Adds to the problems of a run that has ended: what must be so whatever the method."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._plan = run.plan

    def _must(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self._run.problems.append(otherwise)

    async def judge(self) -> int:
        """Look at everything; returns what the provider has earned, in sat."""
        world, run = self._run.world, self._run
        self._coins = {name: await world[name].balance() for name in NAMES}
        self._rows = {name: await run.row(name) for name in NAMES}
        books = {name: await world[name].post.wallet.audit(ask_mints=True) for name in NAMES}
        for name, report in books.items():
            self._must(report.ok, f"the books of the {name}: {report.problems}")
        start = ground()
        self._fees = {
            name: report.accounts.get("fees/mint", 0) // 1000 - start.fees_sat[name]
            for name, report in books.items()
        }
        self._left = world.mint.outstanding_sat - sum(self._coins.values())
        self._must(self._left >= 0, f"there are {-self._left} sat more than the mint owes")
        total = sum(self._coins.values()) + self._left + world.mint.fees_sat
        self._must(total == sum(start.sats.values()) + start.mint.fees_sat, "the mint made money")
        case = self._rows["arbiter"]
        heard = case is not None and case.ruling is not None
        self._must(
            self._coins["arbiter"] <= self._plan.fee_sat * heard, "the arbiter has money that it did not earn"
        )
        self._lightning(books)
        fees_sat_max = FEES_SAT_MAX + (HEARING_FEES_SAT_MAX if self._plan.fee_sat else 0)
        self._must(max(self._fees.values()) <= fees_sat_max, f"fees: {self._fees}")
        await self._no_result_twice()
        await self._log_of_receipts()
        self._nothing_is_left_over()
        await self._verdict()
        return self._gain

    def _lightning(self, books: dict[str, AuditReport]) -> None:
        """What left one Lightning wallet is in another, but for the fee; and the books of who keeps them say so."""
        world = self._run.world
        self._by_rail = {
            name: rail.msat // 1000 - world.outside.rails_sat[name] for name, rail in world.rails.items()
        }
        paid = sum(bill.received_msat > 0 for bill in world.network.bills.values())
        self._must(sum(self._by_rail.values()) == -paid * RAIL_FEE_SAT, f"Lightning: {self._by_rail}")
        for name in NAMES:
            self._must(
                max(world.rails[name].paid.values(), default=0) <= 1, f"the {name} paid an invoice twice"
            )
            if self._is_honest(name) and not self._run.left:  # who left may have paid, and nobody was told
                told = books[name].accounts.get(world.rails[name].account, 0) // 1000
                self._must(
                    told == self._by_rail[name],
                    f"the {name} has {self._by_rail[name]} sat by Lightning, not {told}",
                )

    async def _verdict(self) -> None:
        """What is to be said of a method in particular."""

    async def _no_result_twice(self) -> None:
        for order in self._run.orders:
            results = self._results(order)
            self._must(len(results) <= 1, f"{len(results)} results for one order")

    async def _log_of_receipts(self) -> None:
        """The provider's log has each job once, with the money that the provider has."""
        provider = self._run.world["provider"]
        await Record(provider.post, provider.key, provider.key).enter()
        leaves = map(parse_leaf, await logs.read_leaves(provider.post.db, provider.key, 0))
        told = [leaf for leaf in leaves if isinstance(leaf, JobLeaf) and leaf.request in self._run.orders]
        self._must(len({leaf.request for leaf in told}) == len(told), "a job is in the log twice")
        if self._is_honest("provider", "customer", "arbiter"):
            paid_msat = sum(leaf.amount_msat for leaf in told)
            self._must((paid_msat > 0) == (self._gain > 0), f"the log tells of {paid_msat} msat: {told}")

    def _results(self, order: str) -> list[str]:
        provider = self._run.world["provider"].key
        events = self._run.world.office.events.values()
        return [e.id for e in events if e.kind == 6001 and e.pubkey == provider and e.tag("e") == order]

    def _is_honest(self, *names: str) -> bool:
        """Whether these keep to the rules, and stay."""
        return self._plan.cheater not in names and not self._run.left & set(names)

    def _nothing_is_left_over(self) -> None:
        """Coins are left behind only by whoever went away and could take them."""
        if self._left == 0:
            return
        excused = self._run.left & {"customer", "provider"}
        provider = self._rows["provider"]
        if self._plan.cheater == "provider" and provider is not None and provider.stage is Stage.YIELDED:
            excused.add("provider")  # sold what it had given back: neither side takes the coins
        if "pays twice" in self._plan.cheat:
            excused.add("customer")  # was served for what it paid by Lightning: it lets its coins lie
        self._must(bool(excused), f"{self._left} sat lie at the mint and nobody takes them; {self._stages()}")

    def _stages(self) -> str:
        return ", ".join(f"{name} {row.stage if row else 'nothing'}" for name, row in self._rows.items())

    @property
    def _gain(self) -> int:
        return self._change("provider") + self._own_fees("provider")

    @property
    def _lost(self) -> int:
        """What the customer has spent, but for what the mint took and for the hearing of its dispute."""
        return (
            -self._change("customer")
            - self._fees["customer"]
            - self._coins["arbiter"]
            - self._fees["arbiter"]
        )

    def _change(self, name: str) -> int:
        return self._coins[name] - ground().sats[name] + self._by_rail[name]

    def _own_fees(self, name: str) -> int:
        """What the mint took of a party beyond the swap of the coins in escrow, which their worth is told without."""
        row = self._rows[name]
        took = self._plan.method in (Method.PREPAID, Method.INVOICE) or (
            row is not None and row.amount_sat > 0
        )
        return 0 if took else self._fees[name]
