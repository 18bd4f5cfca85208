"""`tradepost demo`: the whole main job on this machine, with real parts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel

from tradepost.cli.output import AsJson, print_json, print_pairs, quoted, result, status
from tradepost.demo.play import Report, play
from tradepost.errors import TradepostError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    text_file: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE", help="A text to summarise (default: one that comes with Tradepost)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch an agent earn its first sats on this machine.

    A relay, a mint, an agent and a customer, all real; they live in a temporary folder and the sats are worth nothing.

    Example: `tradepost demo --input report.txt`
    """
    text = _read(text_file) if text_file else None
    report = asyncio.run(play(text, status))
    if as_json:
        print_json(report.to_dict())
        return
    status.print()
    result.print("[bold]What happened[/]")
    print_pairs(_summary(report))
    result.print(Panel(quoted(report.result), title="the result", title_align="left", padding=(1, 2)))


def _summary(report: Report) -> Iterator[tuple[str, str]]:
    accounted_sat = report.customer_sat + report.agent_sat + report.mint_fee_sat
    yield "kind", f"{report.kind}, {report.kind_name}"
    yield "input", f"{report.input_words} words, {quoted(report.input_name)}"
    yield "output", f"{len(report.result.split())} words, {report.scenes[0].seconds:.2f} s after the request"
    for scene in report.scenes:
        yield "job", scene.job_id
        yield "", f"by {scene.method}, {scene.price_sat} sat: {scene.outcome}"
    yield "mint's fees", f"{report.mint_fee_sat} sat, for locking and redeeming"
    yield "agent holds", f"[bold green]{report.agent_sat} sat[/], its first"
    yield "customer holds", f"{report.customer_sat} sat of the {report.funded_sat} sat it began with"
    checks = sum(line.startswith("ok ") for line in report.receipt)
    yield "the receipt", f"{checks} checks passed, by a program that knows nothing of us"
    is_balanced = accounted_sat == report.funded_sat and not report.problems
    verdict = (
        "audited, every sat is accounted for" if is_balanced else "[bold red]THE BOOKS DO NOT BALANCE[/]"
    )
    yield (
        "the books",
        f"{report.customer_sat} + {report.agent_sat} + {report.mint_fee_sat} = {accounted_sat} sat: {verdict}",
    )


def _read(path: Path) -> tuple[str, str]:
    try:
        return path.name, path.read_text(encoding="utf-8")
    except OSError as error:
        raise TradepostError(
            f"{path} cannot be read: {error.strerror}; name a text file with --input"
        ) from None
    except UnicodeDecodeError:
        raise TradepostError(f"{path} is not text in UTF-8; name a text file with --input") from None
