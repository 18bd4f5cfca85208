"""What a developer writes: an `Agent`, its capabilities, and the functions that do a `Job`."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from dvm.errors import AllowanceExceeded, BadRequest, RunnerUnusable
from dvm.kinds import check_request_kind, kind_of
from dvm.nip90 import Input, JobRequest
from dvm.schemas import Others, Param, Schema, schema_of
from identity import InvalidName
from identity.nip05 import Name, parse_name

Work = Callable[["Job"], Any]


class Buy(Protocol):
    """Has a part of a job done by somebody else (`allowances.JobPurse.buy`)."""

    async def __call__(
        self,
        target: str,
        text: str | Sequence[Input],
        *,
        kind: int | str,
        max_sat: int,
        params: Mapping[str, str | Sequence[str]],
        private: bool,
        others: bool,
        seconds_max: int,
    ) -> str:
        """The result's text."""
        ...


Report = Callable[[str, str], Awaitable[None]]

_SLUG: Final = re.compile(r"[^a-z0-9]+")
SLUG_LENGTH_MAX: Final = 13  # also the name of the agent's site (NIP-5A)


class Runner:
    """Work that is done by something else than a function of the agent's own: a program, a server.

    `what` says in a few words what that is. `check` tries whether it could do a job, and returns the parameters that
    it takes besides `params`, as far as they are known only then; it raises `RunnerUnusable`. `others` is what becomes
    of parameters that neither it nor the kind knows.
    """

    def __init__(
        self,
        work: Callable[["Job"], Awaitable[str]],
        *,
        what: str,
        check: Callable[[], Awaitable[Sequence[Param]]],
        params: Sequence[Param] = (),
        others: Others = Others.PASSED,
    ) -> None:
        self.work = work
        self.what = what
        self.check = check
        self.params = params
        self.others = others

    async def __call__(self, job: "Job") -> str:
        """Do the job."""
        return await self.work(job)


@dataclass(frozen=True)
class Capability:
    """One kind of job an agent does, its price in sats (0: free), and what it takes and gives.

    `own` are the parameters that the agent's owner named, `runner` what does the work if no function does.
    """

    kind: int
    price_sat: int
    work: Work
    schema: Schema
    about: str
    own: tuple[Param, ...] = ()
    runner: Runner | None = None

    @property
    def name(self) -> str:
        """What people call this kind of job."""
        return self.schema.name

    async def checked(self) -> "Capability":
        """With the parameters that its runner found; the owner's stay as they are. Raises `RunnerUnusable`."""
        if self.runner is None:
            return self
        found = await self.runner.check()
        return replace(self, schema=self.schema.with_params(found).with_params(self.own))


class Job:
    """One job, as the agent's function sees it.

    `inputs` are in the customer's order, URLs and events fetched: each has its `text`, a URL's `media_type`, an event's
    `event`; an input of type job is the result event of that other job. Where a kind works on links (video, malware),
    a URL's `text` is the URL. `text` is all of them joined by a blank line. `params` are checked, and under the names
    that the kind's schema has. `private`: the customer encrypted the request; the answers are encrypted by themselves,
    and the function should not log what it reads.
    """

    def __init__(self, request: JobRequest, report: Report, buy: Buy | None = None) -> None:
        self.id: str = request.id
        self.kind: int = request.event.kind
        self.customer: str = request.customer
        self.private: bool = request.private
        self.inputs: tuple[Input, ...] = request.inputs
        self.output: str | None = request.output
        self.params: Mapping[str, tuple[str, ...]] = request.params
        self.text: str = "\n\n".join(part.text for part in self.inputs)
        self._report = report
        self._buy = buy
        self._confidence: float | None = None

    @property
    def confidence(self) -> float | None:
        """How sure the agent is of its result: 0 … 1, None if it does not say.

        What is set here goes out with the result, in two decimals, for everybody to read and to hold against what
        customers say of it. Raises `ValueError` for another number.
        """
        return self._confidence

    @confidence.setter
    def confidence(self, value: float | None) -> None:
        if value is not None and not 0 <= value <= 1:
            raise ValueError("a confidence is a number from 0 to 1")
        self._confidence = None if value is None else round(value, 2)

    def param(self, name: str, default: str = "") -> str:
        """First value of a parameter of the request, `default` if it was not given or is empty."""
        values = self.params.get(name, ())
        return values[0] if values and values[0] else default

    async def progress(self, message: str) -> None:
        """Tell the customer how far the work is: a 7000 `processing` event with `message`."""
        await self._report(message, "")

    async def partial(self, content: str) -> None:
        """Send a part of the result ahead: a 7000 `partial` event with `content`."""
        await self._report("", content)

    async def ask(
        self,
        target: str,
        text: str | Sequence[Input],
        *,
        kind: int | str = "",
        max_sat: int = 0,
        params: Mapping[str, str | Sequence[str]] | None = None,
        private: bool | None = None,
        others: bool = True,
        seconds_max: int = 300,
    ) -> str:
        """Buy a part of this job from another agent; returns its result's text.

        As `Customer.hire`: the next agent is asked if one does not deliver. `kind` may be left out if `target` is the
        name of one; `private`: as this job is. It is paid by the post, within this agent's allowance. A job that is
        begun again after a crash is given what it has bought already, if it asks for the same.
        Raises `AllowanceExceeded`, `OrderFailed`, `NoAgentFound`, `BadRequest`.
        """
        if self._buy is None:
            raise AllowanceExceeded("there is nobody to buy for this agent here", left_sat=0, renews_at=None)
        return await self._buy(
            target, text, kind=kind, max_sat=max_sat, params=params or {},
            private=self.private if private is None else private, others=others, seconds_max=seconds_max,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Job(kind={self.kind}, id={self.id!r})"


class Agent:
    """A seller of work: a name, a sentence about it, and what it serves.

    One agent has one key of its own (heartbeats of two agents under one key would overwrite each other).
    """

    def __init__(self, name: str, *, about: str = "", picture: str = "", nip05: str = "") -> None:
        """`name` is what people see; `slug` is made of it. `nip05` is a name that the agent's owner has pointed at its
        key, `name@domain`: it is announced once it leads there.

        Raises `ValueError` if no slug can be made, or if `nip05` has not that form.
        """
        self.name = name
        self.about = about
        self.picture = picture
        self.nip05 = str(_name(nip05)) if nip05 else ""
        self.slug = _SLUG.sub("-", name.lower()).strip("-")[:SLUG_LENGTH_MAX].strip("-")
        if not self.slug:
            raise ValueError(f"an agent's name needs at least one letter or digit of a–z and 0–9: {name!r}")
        self.capabilities: dict[int, Capability] = {}

    def serves(
        self,
        kind: int | str,
        price_sat: int = 0,
        *,
        name: str = "",
        params: Sequence[Param] = (),
        outputs: Sequence[str] = (),
        strict: bool = False,
    ) -> Callable[[Work], Work]:
        """Decorate the function that does jobs of `kind` for `price_sat`.

        `kind` is a number or what a registered kind is called (`"translation"`); a kind of your own has a `name`.
        `params` are your own parameters, or what you allow for registered ones; `outputs` the media types you give,
        by default the registry's. Requests that do not fit are refused with a sentence that says what is allowed, and
        where it is `strict` those with parameters that nobody named, too.

        The function takes a `Job` and returns the result as text. `async def` runs on the loop; `def` runs in a thread
        of its own, where it can read the job but not `await job.progress(…)`.
        Raise `JobFailed("why")` in it to tell the customer why; what was paid then goes back.
        Raises `ValueError` for a kind that is no job, a kind served already, a negative price, or two parameters of
        one name.
        """
        try:
            kind = check_request_kind(kind) if isinstance(kind, int) else kind_of(kind)
        except BadRequest as error:
            raise ValueError(str(error)) from None
        if kind in self.capabilities:
            raise ValueError(f"{self.name} serves kind {kind} already")
        if price_sat < 0:
            raise ValueError("price_sat must not be negative")
        registered = schema_of(kind)
        schema = replace(
            registered, name=name or registered.name, outputs=tuple(outputs) or registered.outputs
        ).with_params(params)

        def register(work: Work) -> Work:
            about, taken, runner = inspect.getdoc(work) or "", schema, None
            if isinstance(work, Runner):
                runner, about = work, vars(work).get("__doc__", "")
                taken = replace(schema.with_params(runner.params).with_params(params), others=runner.others)
            if strict:
                taken = replace(taken, others=Others.REFUSED)
            self.capabilities[kind] = Capability(
                kind,
                price_sat,
                runner.work if runner else work,
                taken,
                about.split("\n\n")[0],
                tuple(params),
                runner,
            )
            return work

        return register

    async def check(self) -> None:
        """Try what does the work, before anybody pays for it. Raises `RunnerUnusable` saying for which kind."""
        for kind, capability in list(self.capabilities.items()):
            try:
                self.capabilities[kind] = await capability.checked()
            except RunnerUnusable as error:
                raise RunnerUnusable(f"{self.name}, {capability.name} ({kind}): {error}") from None

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, kinds={sorted(self.capabilities)})"


def _name(text: str) -> Name:
    try:
        return parse_name(text)
    except InvalidName as error:
        raise ValueError(str(error)) from None
