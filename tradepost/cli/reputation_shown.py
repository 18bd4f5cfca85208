"""How `tradepost reputation` shows what it found: for people, and for programs."""

from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from dvm.reputation.reader import RelayView
from identity import Event, encode_npub
from identity.audit import Audit, Receipt
from identity.audit import Verdict as Standing
from identity.published import Finding
from identity.receipt_file import Verdict
from identity.rotation import Tenure
from identity.scores import Factor, Score
from tradepost.cli.output import local_time, print_pairs, print_table, quoted, say
from tradepost.reputation import Reading, RootReport
from tradepost.verifying import Asked, Step
from tradepost.words import counted

_COLOURS: Final = {Verdict.OK: "green", Verdict.FAILED: "bold red", Verdict.NOT_CHECKED: "yellow"}
_NO_DOUBT: Final = (Standing.SETTLED, Standing.SILENT)
_EVENTS_MAX: Final = 4  # of a finding that are named to people


# Roots -----------------------------------------------------------------------------------------------------------


def print_root(report: RootReport) -> None:
    """What is known of an agent's log."""
    pairs = [("agent", encode_npub(report.chain.current)), ("log", encode_npub(report.chain.log))]
    if len(report.chain.tenures) > 1:
        pairs += [("key", _tenure_words(tenure)) for tenure in report.chain.tenures]
    if report.root is not None and report.event is not None:
        before = report.root.previous
        grown = "its proof holds" if report.root.is_consistent else "[bold red]it has no proof of that[/]"
        pairs += [
            ("root", report.root.head.root),
            ("size", f"{report.root.head.size} leaves"),
            ("dated", local_time(report.event.created_at)),
            ("grew out of", f"{before.size if before else 0} leaves: {grown}"),
        ]
    for name, events in (("contested", report.chain.contested), ("claimed", report.chain.claims)):
        pairs += [
            (name, f"[yellow]by a rotation that does not count[/] [dim]({event.id[:16]})[/]")
            for event in events
        ]
    print_pairs([*pairs, *(("relay", _relay_words(view, report)) for view in report.relays)])


def _tenure_words(tenure: Tenure) -> str:
    since = f", since {local_time(tenure.since)}" if tenure.since else ""
    named = "" if tenure.committed else ", which the log had not named before"
    return f"{encode_npub(tenure.key)} [dim]({tenure.how}{since}{named})[/]"


def _relay_words(view: RelayView, report: RootReport) -> str:
    newest = report.root.head if report.root else None
    if view.head is None:
        told = view.trouble or "has no root"
        return f"[yellow]–[/] {quoted(view.url)}: {quoted(told)}"
    if view.head == newest:
        return f"[green]✓[/] {quoted(view.url)}"
    return f"[yellow]![/] {quoted(view.url)}: its newest is over {view.head.size} leaves"


def root_fields(report: RootReport) -> dict[str, Any]:
    """A root, for programs."""
    root, event = report.root, report.event
    return {
        "npub": encode_npub(report.chain.current), "log": report.chain.log,
        "keys": [
            {
                "key": one.key, "how": one.how, "committed": one.committed, "since": one.since or None,
                "until": one.until,
            }
            for one in report.chain.tenures
        ],
        "contested": [event.id for event in report.chain.contested],
        "claims": [event.id for event in report.chain.claims],
        "root": root and root.head.root, "size": root.head.size if root else 0,
        "at": event and event.created_at, "event": event and event.id,
        "previous": {"root": root.previous.root, "size": root.previous.size} if root and root.previous else None,
        "consistent": root and root.is_consistent,
        "relays": [
            {
                "url": view.url, "size": view.head and view.head.size, "root": view.head and view.head.root,
                "trouble": view.trouble or None,
            }
            for view in report.relays
        ],
        "findings": [finding_fields(one) for one in report.findings],
    }  # fmt: skip


# Findings --------------------------------------------------------------------------------------------------------


def print_findings(findings: Sequence[Finding]) -> None:
    """What is not as it should be, on stderr."""
    for one in findings:
        proven = " [bold red](proven)[/]" if one.is_proven else ""
        say(f"[red]{one.kind}[/]{proven}: {quoted(one.text)}{_named(one.events)}")


def _named(events: Sequence[Event]) -> str:
    more = " …" if len(events) > _EVENTS_MAX else ""
    ids = ", ".join(event.id[:16] for event in events[:_EVENTS_MAX])
    return f" [dim](events {ids}{more})[/]" if ids else ""


def finding_fields(finding: Finding) -> dict[str, Any]:
    """A finding, for programs."""
    return {
        "finding": finding.kind, "proven": finding.is_proven, "text": finding.text,
        "events": [event.id for event in finding.events],
    }  # fmt: skip


# Receipts --------------------------------------------------------------------------------------------------------


def print_audit(judged: Audit) -> None:
    """Every job, by its leaf in the log; one that the log does not have shows none."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (("leaf", "right"), ("job", "left"), ("ended", "left"), ("sat", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    for name in ("outcome", "rating"):
        table.add_column(name, no_wrap=True)
    table.add_column("receipt", overflow="fold")
    for one in judged.receipts:
        table.add_row(*_row(one))
    print_table(table)


def _row(receipt: Receipt) -> tuple[str, ...]:
    job, review = receipt.job, receipt.review
    amount_msat = job.amount_msat if job else review.amount_msat if review else 0
    standing = receipt.verdict.replace("_", " ")
    told = standing if receipt.verdict is Standing.SETTLED else f"{standing}: {receipt.reason}"
    colour = "green" if receipt.verdict is Standing.SETTLED else "dim"
    said = f"\n“{quoted(review.text)}”" if review and review.text else ""
    said += f"\n[dim]answered:[/] “{quoted(receipt.answer)}”" if receipt.answer else ""
    return (
        "–" if receipt.leaf_number is None else str(receipt.leaf_number),
        receipt.request[:12],
        local_time(job.at)[:10] if job else "–",
        f"{amount_msat // 1000:,}",
        (job.outcome + (", disputed" if job.disputed else "")) if job else "–",
        f"{review.rating}/5" if review else "–",
        f"[{colour if receipt.verdict in _NO_DOUBT else 'yellow'}]{quoted(told)}[/]{said}",
    )


def receipt_fields(receipt: Receipt) -> dict[str, Any]:
    """A receipt, for programs."""
    job, review, settlement = receipt.job, receipt.review, receipt.settlement
    is_answered = receipt.answer_number is not None
    return {
        "request": receipt.request, "customer": receipt.customer, "verdict": receipt.verdict, "reason": receipt.reason,
        "leaf": receipt.leaf_number,
        "job": job and {
            "kind": job.kind, "method": job.method, "outcome": job.outcome, "disputed": job.disputed,
            "amount_msat": job.amount_msat, "at": job.at, "result": job.result, "confidence": job.confidence,
        },
        "review": receipt.review_event and review and {
            "event": receipt.review_event.id, "rating": review.rating, "text": review.text,
            "evidence": review.evidence_class, "amount_msat": review.amount_msat, "at": receipt.review_event.created_at,
        },
        "answer": {"leaf": receipt.answer_number, "text": receipt.answer} if is_answered else None,
        "offline": settlement.offline if settlement else (), "asked": settlement.asked if settlement else (),
    }  # fmt: skip


def print_gaps(reading: Reading) -> None:
    """What could not be read, or asked, on stderr."""
    for gap in gap_fields(reading):
        (who, which), (what, why) = gap.items()
        say(f"[yellow]{what.replace('_', ' ')}: {who} {quoted(str(which))}: {quoted(str(why))}[/]")


def gap_fields(reading: Reading) -> list[dict[str, Any]]:
    """The same, for programs: who it is about, and what it did not do."""
    gaps: list[dict[str, Any]] = [
        {"mint": url, "not_asked": reason} for url, reason in reading.unasked.items()
    ]
    gaps += [
        {"relay": view.url, "not_read": view.trouble} for view in reading.material.relays if view.trouble
    ]
    if reading.material.unreadable:
        gaps.append(
            {"reviews": reading.material.unreadable, "not_read": "they have not the form of a review"}
        )
    return gaps


# Checks ----------------------------------------------------------------------------------------------------------


def print_steps(steps: Sequence[Step]) -> None:
    """Each check with its verdict, and who was asked."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for step in steps:
        asked = "offline" if step.asked is Asked.NOBODY else step.asked
        table.add_row(f"[{_COLOURS[step.verdict]}]{step.verdict}[/]", asked, quoted(step.what))
    print_table(table)


def step_fields(step: Step) -> dict[str, Any]:
    """A check, for programs."""
    return {"verdict": step.verdict, "asked": step.asked, "what": step.what}


# Scores ----------------------------------------------------------------------------------------------------------


def print_score(found: Score) -> None:
    """The factors, and their sum."""
    table = Table(box=None, pad_edge=False)
    table.add_column("factor", no_wrap=True)
    for name in ("value", "weight", "points"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for factor in found.factors:
        points = 100 * factor.weight * factor.value
        numbers = ", ".join(_number_words(factor))
        table.add_row(factor.name, f"{factor.value:.2f}", f"{factor.weight:.2f}", f"{points:.1f}", numbers)
    table.add_row(
        "together",
        "",
        "1.00",
        f"{100 * found.value:.1f}",
        f"of 100, on {counted(found.jobs, 'job')}",
        style="bold",
    )
    print_table(table)


def _number_words(factor: Factor) -> list[str]:
    return [f"{name.replace('_', ' ')} {number:,.4g}" for name, number in factor.numbers.items()]
