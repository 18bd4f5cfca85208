"""`tradepost dev`: a market on this machine, and what happens in it."""

import asyncio
import shlex
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dvm.escrow.agreement import RULING, award_of
from dvm.kinds import FEEDBACK, NAMES, name_of
from dvm.nip90 import Status, parse_feedback, parse_result
from dvm.private import scheme_of
from identity import Event, encode_npub
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.cli.output import AsJson, clock_time, print_json, print_text, quoted, result, status
from tradepost.dev.agents import keep_running
from tradepost.dev.stage import AGENT, FOLDER, Stage, open_stage
from tradepost.ending import ending
from tradepost.errors import TradepostError
from tradepost.mint_process import MintProcessError, mint_python
from tradepost.settings import ARBITER, FILE

JOBS_MAX = 1000  # remembered, to say how long each took
_PARTIES: Final = {"provider": "agent", "customer": "customer"}  # of a ruling, and what we call them


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(dev)


def dev(
    project: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Your project (default: this folder if it is one, else a sample agent)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a relay, a play mint and an agent to try things on.

    It stays until you interrupt it, shows each job, and starts the agent again when you change its code. Relay, mint,
    arbiter and a customer with sats are in .tradepost-dev, which you may remove. The sats are worth nothing. Example:
    `tradepost dev`, then in a second terminal `cd .tradepost-dev` and what it tells you to type.
    """
    if project is None and Path(FILE).exists():
        project = Path()
    if project is not None and not (project / FILE).exists():
        raise TradepostError(f"{project} has no {FILE}; make a project with `tradepost init DIR`")
    asyncio.run(_dev(project, as_json))


async def _dev(project: Path | None, as_json: bool) -> None:
    with status.status("installing the mint, which takes a minute the first time …"):
        python = await mint_python()
    starting = status.status("the relay and the mint start …")
    starting.start()
    try:
        async with open_stage(project or Path(), project, python) as stage:
            starting.stop()
            await _show(stage, as_json)
    finally:
        starting.stop()


async def _show(stage: Stage, as_json: bool) -> None:
    """Run the agent and tell what happens, until we are told to end. Raises `MintProcessError` if the mint ends."""
    show = _Show(stage, as_json)
    clock = SystemClock()
    jobs = Filter(kinds=(*range(5000, 7000), FEEDBACK, RULING), since=clock.now())
    with ending() as told_to_end:
        show.started()
        async with RelayPool([stage.relay], clock=clock) as pool:
            subscription = await pool.subscribe([jobs], show.seen)
            await subscription.eose()
            telling = asyncio.create_task(told_to_end.wait())
            dying = asyncio.create_task(stage.mint.ended())
            running = asyncio.create_task(keep_running(stage.project, stage.agent, show.told))
            tasks = (telling, dying, running)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if dying.done():
                    raise MintProcessError(dying.result())
                if running.done():
                    running.result()  # it never ends but by an error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await subscription.close()


class _Show:
    """What a person, or with `as_json` a program, is told."""

    def __init__(self, stage: Stage, as_json: bool) -> None:
        self._stage = stage
        self._as_json = as_json
        self._hinted = False
        self._asked_at: dict[str, float] = {}

    def started(self) -> None:
        """Relay, mint, arbiter and customer are there; the agent is on its way."""
        stage = self._stage
        if self._as_json:
            told = {
                "relay": stage.relay,
                "mint": stage.mint.url,
                "arbiter": stage.arbiter,
                "desk": stage.desk,
                "folder": str(stage.folder),
            }
            print_json({"event": "started", **told, "customer_sat": stage.customer_sat})
            return
        _tell(f"[green]●[/] relay     {stage.relay}")
        _tell(
            f"[green]●[/] mint      {stage.mint.url}, [bold yellow]PLAY MONEY[/]: its sats are worth nothing"
        )
        _tell(f"[green]●[/] arbiter   {stage.arbiter}")
        _tell(f"[green]●[/] customer  {stage.customer_sat} sat to spend")
        _tell(f"[green]●[/] desk      {stage.desk}, for programs and browsers")

    def told(self, what: str, more: dict[str, Any]) -> None:
        """See `tradepost.dev.agents.Tell`."""
        if self._as_json:
            print_json({"event": what, **more})
            return
        match what:
            case "open":
                offered = [
                    f"{x['kind']} {name_of(x['kind'])}, {_price(x['price_sat'])}" for x in more["serves"]
                ]
                _tell(f"[green]●[/] agent     {quoted(more['agent'])}: {'; '.join(offered)}")
                if not self._hinted:
                    self._hinted = True
                    self._hint(more)
            case "said":
                _tell(f"[dim]│[/] {quoted(more['line'])}")
            case "changed":
                _tell(f"[yellow]↻[/] {quoted(more['file'])} changed: the agent starts again")
            case "ended":
                _tell(
                    f"[red]●[/] the agent ended (exit code {more['code']}); it starts again when its code changes"
                )

    def _hint(self, agent: dict[str, Any]) -> None:
        """What to type next, with everything filled in. The commands stand alone on their lines, to be copied."""
        offer = agent["serves"][0]
        price = f" --max-sat {offer['price_sat']}" if offer["price_sat"] else ""
        word = NAMES.get(offer["kind"], str(offer["kind"])).replace(" ", "-")
        ask = f"tradepost ask {word} @{self._stage.text.name} --kind {offer['kind']}{price}"
        folder = self._stage.folder
        _tell("\nIn a second terminal:\n")
        _print_commands(
            f"cd {_quote(folder)}",
            ask,
            f"tradepost find {word}",
            "tradepost wallet balance",
        )
        if price:
            _tell("\nOr rate it, and look at what its receipts say of the agent:\n")
            _print_commands(f"{ask} --rate 4", f"tradepost reputation audit {agent['npub']}")
            _tell("\nOr read the result before you pay; it says how to accept or dispute:\n")
            _print_commands(f"{ask} --settle escrow --review")
            _tell(
                "\nThe agent's side of that (`escrow answer`, `refund`), and the arbiter's (`escrow rule`):\n"
            )
            _print_commands(
                *(f"(cd {_quote(folder / seat)} && tradepost escrow list)" for seat in (AGENT, ARBITER))
            )
        _tell(
            f"\nOr over HTTP, in a browser at {self._stage.desk}, or by curl (the play mint pays itself):\n"
        )
        _print_commands(*_curls(self._stage.desk, agent["npub"], offer["kind"]))
        code = self._stage.project
        _tell(
            f"\n[dim]Change the code in {quoted(str(code))}, and the agent starts again. Ctrl-C ends it all;[/]"
        )
        _tell(
            f"[dim]{FOLDER} keeps keys and sats for the next time, or remove it. Jobs, as they happen:[/]\n"
        )

    def seen(self, event: Event, _relay: str) -> None:
        """An event of a job."""
        now = asyncio.get_running_loop().time()
        if 5000 <= event.kind < 6000:
            if len(self._asked_at) >= JOBS_MAX:
                del self._asked_at[next(iter(self._asked_at))]
            self._asked_at[event.id] = now
            self._line(
                event.id, "asked", f"{event.kind} {name_of(event.kind)}, by {encode_npub(event.pubkey)[:16]}…"
            )
        elif feedback := parse_feedback(event):
            price = f"{-(-feedback.offer.price_msat // 1000)} sat" if feedback.offer else ""
            word = "offer" if feedback.status == Status.PAYMENT_REQUIRED else feedback.status
            self._line(feedback.request_id, word, price or _told(event, feedback.message or feedback.content))
        elif event.kind == RULING:
            awards = (f"{award_of(event, party)} sat to the {word}" for party, word in _PARTIES.items())
            self._line(event.tag("e") or "", "ruled", ", ".join(awards))
        elif answer := parse_result(event):
            asked_at = self._asked_at.get(answer.request_id)
            after = (
                "of an earlier request" if asked_at is None else f"{now - asked_at:.2f} s after the request"
            )
            self._line(
                answer.request_id, "result", f"{_told(event, f'{len(event.content)} characters')}, {after}"
            )

    def _line(self, job_id: str, what: str, more: str) -> None:
        now = SystemClock().now()
        if self._as_json:
            print_json({"event": "job", "job": job_id, "step": what, "message": more, "at": now})
            return
        style = {"result": "green", "error": "red", "offer": "cyan"}.get(what, "dim")
        text = (
            f"[dim]{clock_time(now)} {quoted(job_id[:12])}[/] [{style}]{quoted(what)}[/] {quoted(more[:200])}"
        )
        _tell(text)


def _tell(markup: str) -> None:
    """All on stdout, so that nothing is torn apart where both streams are kept."""
    result.print(markup, soft_wrap=not result.is_terminal)


def _curls(desk: str, npub: str, kind: int) -> list[str]:
    """From nothing to a paid result: who is there, a bill for the job with the ticket to pay it under, the job."""
    wish = f'{{"agent": "{npub}", "kind": {kind}, "input": "One. Two. Three. Four."}}'
    return [
        f"curl -s {desk}/v1/agents",
        f"TICKET=$(curl -s {desk}/v1/jobs -d '{wish}' | tee /dev/stderr | grep -o 'tpt_[A-Za-z0-9_-]*')",
        f"curl -s '{desk}/v1/jobs?wait=50' -H \"Authorization: Bearer $TICKET\" -d '{wish}'",
    ]


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def _print_commands(*commands: str) -> None:
    for command in commands:
        print_text(f"  {command}")


def _told(event: Event, text: str) -> str:
    """What an event of a job says, if it can be read here."""
    return "(encrypted)" if scheme_of(event) else text


def _price(sat: int) -> str:
    return f"{sat} sat" if sat else "free"
