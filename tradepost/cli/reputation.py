"""`tradepost reputation`: what an agent's receipts amount to, read from relays and files."""

import asyncio
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from identity import encode_npub
from identity.audit import Audit
from identity.published import Finding
from identity.receipt_file import FILE_BYTES_MAX, Verdict
from identity.scores import Score
from tradepost.cli.completing import complete_mint, complete_target
from tradepost.cli.output import AsJson, print_json, print_text, say, status
from tradepost.cli.reputation_shown import (
    finding_fields,
    gap_fields,
    print_audit,
    print_findings,
    print_gaps,
    print_root,
    print_score,
    print_steps,
    receipt_fields,
    root_fields,
    step_fields,
)
from tradepost.errors import TradepostError
from tradepost.reputation import Reading, Reputation, RootReport, verify_receipt
from tradepost.verifying import Asked, Step
from tradepost.words import counted

_ABOUT: Final = "What an agent's receipts say of it, and whether they hold."

Agent = Annotated[
    str,
    typer.Argument(
        metavar="AGENT",
        help="An npub, nprofile, key in hex, NIP-05 name (bob@example.com), or what the agent calls itself.",
        autocompletion=complete_target,
    ),
]
Mints = Annotated[
    list[str] | None,
    typer.Option(
        "--mint",
        metavar="URL",
        help="Believe this mint too, and ask it (repeatable). Those of your configuration are asked anyway.",
        autocompletion=complete_mint,
    ),
]
NoMints = Annotated[bool, typer.Option("--no-mints", help="Ask relays only.")]


def register(root: typer.Typer) -> None:
    """Add the commands to the application."""
    app = typer.Typer(
        help=_ABOUT,
        epilog="Example: `tradepost reputation score npub1…`",
        callback=_help,
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    app.command(name="root", epilog="Example: `tradepost reputation root npub1…`")(show_root)
    app.command(epilog="Example: `tradepost reputation prove npub1… 2e98eae4846c --out receipt.json`")(prove)
    app.command(epilog="Example: `tradepost reputation verify receipt.json`")(verify)
    app.command(epilog="Example: `tradepost reputation score bob@example.com`")(score)
    app.command(epilog="Example: `tradepost reputation audit npub1… --out evidence`")(audit)
    root.add_typer(app, name="reputation")


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(1)


def show_root(agent: Agent, as_json: AsJson = False) -> None:
    """Show an agent's newest root, its keys, and which relays have it.

    The root that you saw last is remembered: a shorter log is found out. The exit code is 1 if the log is not as it
    should be, or there is none.
    """
    report = asyncio.run(_root(agent))
    if as_json:
        print_json(root_fields(report))
    else:
        print_root(report)
        print_findings(report.findings)
    if report.root is None:
        raise TradepostError(
            "no root of this agent was found: it has published none, or your relays have none"
        )
    _fail_for(report.findings)


async def _root(agent: str) -> RootReport:
    async with Reputation.open(ask_mints=False) as reputation:
        with status.status("asking the relays …"):
            return await reputation.root(agent)


def prove(
    agent: Agent,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The request's id, or the beginning of it.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there instead of to stdout.")
    ] = None,
) -> None:
    """Write a file by which anybody can check one receipt, offline.

    It has the root, the leaves with their proofs, and the review: for `tradepost reputation verify`, or for
    examples/verify_receipt.py, which needs none of Tradepost.
    """
    raw = asyncio.run(_prove(agent, job))
    if out is None:
        print_text(raw.decode().rstrip())
    else:
        out.write_bytes(raw)
        say(f"[green]written to {out}[/]")


async def _prove(agent: str, job: str) -> bytes:
    async with Reputation.open(ask_mints=False) as reputation:
        with status.status("asking the relays …"):
            return await reputation.prove(agent, job)


def verify(
    source: Annotated[
        str, typer.Argument(metavar="FILE|AGENT", help="A file of `prove`, or the agent, to ask relays.")
    ],
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="Of an agent: the request's id, or its beginning.")
    ] = None,
    *,
    of: Annotated[
        str | None, typer.Option("--of", metavar="AGENT", help="Of a file: whose it is to be.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Of a file: ask relays and mints too; else nobody is asked.")
    ] = False,
    mint: Mints = None,
    as_json: AsJson = False,
) -> None:
    """Check a receipt, and say for each check who was asked for it.

    A file is checked offline: nobody is asked. The exit code is 1 if a check failed; what was not checked is named.
    """
    steps = _verify_file(source, of, online, mint) if _is_file(source, job) else None
    if steps is None:
        steps = asyncio.run(_verify(source, job, mint))
    if as_json:
        for step in steps:
            print_json(step_fields(step))
    else:
        print_steps(steps)
    asked = sorted({step.asked for step in steps} - {Asked.NOBODY})
    if not as_json:
        say(f"[dim]asked: {', '.join(asked) or 'nobody'}[/]")
    if failed := [step for step in steps if step.verdict is Verdict.FAILED]:
        raise TradepostError(f"this does not hold: {counted(len(failed), 'check')} failed")
    if not as_json:
        passed = sum(step.verdict is Verdict.OK for step in steps)
        say(f"[green]● it holds[/]: {counted(passed, 'check')} passed, {len(steps) - passed} not made")


def _is_file(source: str, job: str | None) -> bool:
    if Path(source).is_file():
        if job is not None:
            raise TradepostError(f"{source} has its job in it: leave {job} out")
        return True
    if source.endswith(".json") or "/" in source:
        raise TradepostError(f"there is no file {source}")
    return False


def _verify_file(source: str, of: str | None, online: bool, mints: list[str] | None) -> list[Step]:
    with Path(source).open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    return asyncio.run(_verify_online(raw, of, mints)) if online else verify_receipt(raw, of)


async def _verify_online(raw: bytes, of: str | None, mints: list[str] | None) -> list[Step]:
    async with Reputation.open(mints=mints or ()) as reputation:
        with status.status("asking relays and mints …"):
            return await reputation.verify_file(raw, of)


async def _verify(agent: str, job: str | None, mints: list[str] | None) -> list[Step]:
    async with Reputation.open(mints=mints or ()) as reputation:
        with status.status("asking relays and mints …"):
            return await reputation.verify(agent, job)


def score(agent: Agent, mint: Mints = None, no_mints: NoMints = False, as_json: AsJson = False) -> None:
    """Compute an agent's score, factor by factor.

    Each factor is shown with the numbers it came from. It is computed here, from receipts that anyone can read:
    payments count once a mint that you trust says that they were made, or by a preimage.
    """
    reading, found = asyncio.run(_score(agent, mint, no_mints))
    if as_json:
        npub = encode_npub(reading.audit.chain.current)
        print_json({"npub": npub} | found.to_dict() | {"findings": len(reading.audit.findings)})
    else:
        print_score(found)
        if not found.backed:
            say(
                "[dim]no payment is known that holds, so this says nothing of it: everybody begins near a third[/]"
            )
        print_gaps(reading)
        if reading.audit.findings:
            told = counted(len(reading.audit.findings), "finding")
            say(f"[yellow]not all is as it should be: `tradepost reputation audit` has {told}[/]")


async def _score(agent: str, mints: list[str] | None, no_mints: bool) -> tuple[Reading, Score]:
    async with Reputation.open(mints=mints or (), ask_mints=not no_mints) as reputation:
        with status.status("asking relays and mints …"):
            reading = await reputation.read(agent)
        return reading, reputation.score_of(reading)


def audit(
    agent: Agent,
    mint: Mints = None,
    no_mints: NoMints = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the events that show each finding there, as JSON lines."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List an agent's jobs with what each receipt amounts to.

    Whatever is not as it should be is listed below them, and then the exit code is 1. Findings marked `proven` are so
    by the agent's own signatures.
    """
    reading = asyncio.run(_read(agent, mint, no_mints))
    judged = reading.audit
    if as_json:
        for receipt in judged.receipts:
            print_json(receipt_fields(receipt))
        for finding in judged.findings:
            print_json(finding_fields(finding))
        for gap in gap_fields(reading):
            print_json(gap)
        sums = {"receipts": len(judged.receipts), "findings": len(judged.findings)}
        print_json({"ok": not judged.findings} | sums)
    else:
        print_audit(judged)
        print_gaps(reading)
        print_findings(judged.findings)
    if out is not None:
        _write_evidence(judged, out)
    _fail_for(judged.findings)


async def _read(agent: str, mints: list[str] | None, no_mints: bool) -> Reading:
    async with Reputation.open(mints=mints or (), ask_mints=not no_mints) as reputation:
        with status.status("asking relays and mints …"):
            return await reputation.read(agent)


def _write_evidence(judged: Audit, folder: Path) -> None:
    """One file for each finding that has any: its events as JSON lines, with their signatures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, finding in enumerate((one for one in judged.findings if one.events), 1):
        lines = b"".join(orjson.dumps(event.to_dict()) + b"\n" for event in finding.events)
        (folder / f"{number:03}-{finding.kind}.jsonl").write_bytes(lines)


def _fail_for(findings: tuple[Finding, ...]) -> None:
    if findings:
        raise TradepostError(f"the log is not as it should be: {counted(len(findings), 'finding')} above")
