"""The checks of one receipt, each with who was asked for it. Pure.

Offline nobody is: what a file says is signed and proved, or it is not. Relays are asked whether the log is still the
same one, and mints whether the coins that a customer shows are spent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dvm.reputation.reader import Material
from dvm.reputation.settlements import look
from identity.audit import Audit, Receipt
from identity.audit import Verdict as Standing
from identity.published import Kind
from identity.receipt_file import FileCheck, Verdict
from identity.receipts import Preimage, SpentLock
from identity.rotation import Chain
from tradepost.words import counted

#: What says that the log is not the one that it was, or not the only one, and what leaves that open.
_ABOUT_LOG: Final = {
    Kind.FORK: Verdict.FAILED,
    Kind.TWO_LOGS: Verdict.FAILED,
    Kind.DELETED: Verdict.NOT_CHECKED,
    Kind.HIDDEN_ROOT: Verdict.NOT_CHECKED,
    Kind.MISSING: Verdict.NOT_CHECKED,
}
_STANDINGS: Final = {
    Standing.SETTLED: Verdict.OK,
    Standing.SILENT: Verdict.OK,
    Standing.UNASKED: Verdict.NOT_CHECKED,
}


class Asked(StrEnum):
    """Who was asked for a check."""

    NOBODY = "nobody"
    RELAYS = "relays"
    MINT = "mint"


@dataclass(frozen=True)
class Step:
    """One check, in words."""

    verdict: Verdict
    asked: Asked
    what: str


def offline_steps(checked: FileCheck) -> list[Step]:
    """The checks of a file, and those of the payment that its review shows."""
    steps = [Step(check.verdict, Asked.NOBODY, check.what) for check in checked.checks]
    if checked.review is not None and checked.review.evidence is not None:
        found = look(checked.review)
        verdict = Verdict.FAILED if found.doubt else Verdict.OK
        told = found.doubt or "; ".join((f"{found.amount_msat} msat", *found.offline))
        steps.append(Step(verdict, Asked.NOBODY, f"the payment, read as a wallet does: {told}"))
    return steps


def all_steps(
    offline: Sequence[Step],
    material: Material,
    judged: Audit,
    receipt: Receipt | None,
    unasked: Mapping[str, str],
) -> list[Step]:
    """The checks of a file that is good, and instead of what it leaves open what relays and mints say of its log, and
    of its one job.
    """
    steps = [step for step in offline if step.verdict is not Verdict.NOT_CHECKED]
    steps += [_relays(material), *_keys(judged.chain)]
    steps += [
        Step(_ABOUT_LOG[one.kind], Asked.RELAYS, one.text)
        for one in judged.findings if one.kind in _ABOUT_LOG
    ]  # fmt: skip
    return steps if receipt is None else [*steps, _payment(receipt, unasked)]


def _relays(material: Material) -> Step:
    sizes = [view.head.size for view in material.relays if view.head is not None]
    newest = max(sizes, default=0)
    having = f"at {sum(size == newest for size in sizes)} of {counted(len(material.relays), 'relay')}"
    told = (
        f"the newest root, over {newest} leaves, is {having}" if sizes else "no relay has a root of this log"
    )
    return Step(Verdict.OK if sizes else Verdict.NOT_CHECKED, Asked.RELAYS, told)


def _keys(chain: Chain) -> list[Step]:
    """Whether the log went over to another key by its owner's will, as far as anybody can know."""
    doubts = [
        f"whether its owner passed the log on to {tenure.key}, which it had not named before"
        for tenure in chain.tenures if not tenure.committed
    ]  # fmt: skip
    doubts += [
        f"who made the rotation {event.id[:16]}, which leads to another key and does not count"
        for event in chain.contested
    ]
    return [Step(Verdict.NOT_CHECKED, Asked.RELAYS, doubt) for doubt in doubts]


def _payment(receipt: Receipt, unasked: Mapping[str, str]) -> Step:
    """What became of the payment. A preimage needs no asking, and silence none but of relays."""
    verdict = _STANDINGS.get(receipt.verdict, Verdict.FAILED)
    match receipt.review.evidence if receipt.review else None:
        case SpentLock(mint) if receipt.settlement is not None and receipt.settlement.asked:
            return Step(verdict, Asked.MINT, f"{receipt.reason} ({mint})")
        case SpentLock(mint):
            return Step(verdict, Asked.NOBODY, f"{receipt.reason} ({mint}: {unasked.get(mint, 'not asked')})")
        case Preimage():
            return Step(verdict, Asked.NOBODY, receipt.reason)
    return Step(verdict, Asked.RELAYS, receipt.reason)
