"""One code for each kind of trouble, the same everywhere, and all of them on the page."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

import dvm
import identity
import relay_bridge
import store
import tradepost
import wallet
from dvm import Agent, Job, JobFailed, OrderFailed
from dvm.errors import JobTimeout, Trouble
from store import CodedError, StoreError
from tests.tradepost.lives import eventually
from tradepost.facade.web.problems import Problem, Refusal, problem_of
from tradepost.testing import Market
from wallet.errors import Action, MintError, RailRefused

if TYPE_CHECKING:
    from conftest import Cli

PACKAGES = (store, identity, relay_bridge, wallet, dvm, tradepost)
PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
#: code → the cells of its rows. `forbidden` and `too_many_requests` are there twice: the desk and an agent say them.
ROWS: dict[str, list[list[str]]] = {}
for line in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE):
    ROWS.setdefault(line[0], []).append(line[1].split(" | "))


def kinds() -> Iterator[type[CodedError]]:
    """Every class of error that is told by a code."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    names = {package.__name__ for package in PACKAGES}

    def below(kind: type[CodedError]) -> Iterator[type[CodedError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    return (kind for kind in dict.fromkeys(below(CodedError)) if kind.__module__.partition(".")[0] in names)


def told(kind: type[CodedError]) -> tuple[int, Problem]:
    """As HTTP tells one, whatever it is made of."""
    error = kind.__new__(kind)
    error.args = ("what happened",)
    action = getattr(kind, "default_action", getattr(kind, "action", Action.GIVE_UP))
    for name, value in {"action": action, "retry_after": None, "money": None, "headers": {}}.items():
        setattr(error, name, value)
    return problem_of(error)


def test_no_two_kinds_have_one_code_and_each_is_on_the_page() -> None:
    codes = [kind.code for kind in kinds()]
    assert sorted(codes) == sorted(set(codes))
    others = {
        "internal",
        "expectation_failed",
        "method_not_allowed",
        "request_entity_too_large",
        "request_timeout",
    }
    cli = {"usage_error", "os_error", "mint_process_error", "mint_venv_error"}
    assert set(ROWS) == set(codes) | others | cli | {str(one) for one in Trouble}


@pytest.mark.parametrize("kind", sorted(kinds(), key=lambda kind: kind.code), ids=lambda kind: kind.code)
def test_status_and_action_are_as_the_page_says(kind: type[CodedError]) -> None:
    _, action, http, _ = next(row for row in ROWS[kind.code] if len(row) == 4)
    status, problem = told(kind)
    if issubclass(kind, StoreError):
        assert (http, status, problem.code) == ("500, as `internal`", 500, "internal")
        return
    assert (http, problem.code) == (str(status), kind.code)
    assert action in (str(problem.action), "as told", "by its own code")
    if issubclass(kind, Refusal) and kind is not Refusal:
        assert action == str(problem.action)


@pytest.mark.parametrize(
    "error", [web.HTTPNotFound(), web.HTTPMethodNotAllowed("PUT", ["GET"]), web.HTTPRequestTimeout(),
              web.HTTPExpectationFailed(), web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2)], ids=lambda error: str(error.status)
)  # fmt: skip
def test_what_the_server_itself_refuses_is_there_too(error: web.HTTPException) -> None:
    status, problem = problem_of(error)
    assert ROWS[problem.code][0][2] == str(status)


def test_the_codes_of_others_have_names_of_their_own() -> None:
    mint, rail = MintError(mint_code=11001, detail="spent"), RailRefused(nwc_code="OTHER", detail="no")
    assert (mint.code, mint.mint_code) == ("mint_error", 11001)
    assert (rail.code, rail.nwc_code) == ("rail_refused", "OTHER")


def test_the_command_line_tells_it(cli: "Cli") -> None:
    def code(*arguments: object) -> str:
        ran = cli(*arguments, "--json")
        assert ran.code == 1
        return str(json.loads(ran.err.splitlines()[-1])["code"])

    assert code("jobs", "--nonsense") == "usage_error"
    assert code("wallet", "receive", "nonsense") == "invalid_token"
    assert code("backup", "x.age", "--to", "age1nonsense") == "config_error"


class Rude(JobFailed):
    """An agent's own kind."""


async def test_feedback_carries_it_and_our_customer_reads_it() -> None:
    agent = Agent("fails")

    @agent.serves(kind=5001, price_sat=21)
    async def paid(job: Job) -> str:
        raise Rude("no")

    @agent.serves(kind=5002)
    async def late(job: Job) -> str:
        raise JobTimeout("too long")

    async with Market() as market:
        provider = await market.open(agent)
        customer = await market.customer(sat=100)
        codes = {}
        for kind, max_sat, options in ((5001, 50, {}), (5002, 0, {}), (5001, 1, {})):
            order = await customer.ask(provider.public_key, "x", kind=kind, max_sat=max_sat, **options)
            with pytest.raises(OrderFailed) as failed:
                await order.result()
            codes[kind, max_sat] = failed.value.code
        assert codes == {(5001, 50): "job_failed", (5002, 0): "job_timeout", (5001, 1): "offer_refused"}
        said = [event for event in market.relay.events if event.tag("status") == "error"]
        assert sorted(event.tag("code") or "" for event in said) == ["job_failed", "job_timeout"]

        async def is_kept() -> bool:
            rows = await customer._post.db.all("SELECT code FROM orders ORDER BY code")
            return [row["code"] for row in rows] == ["job_failed", "job_timeout", "offer_refused"]

        await eventually(is_kept)
