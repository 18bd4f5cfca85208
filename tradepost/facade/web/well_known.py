"""What others look up by convention: names (NIP-05), a manifest and llms.txt for agents, SKILL.md.

The manifest's field names are those of A2A's agent card as its protobuf writes them (`name`, `description`, `version`,
`documentation_url`, `icon_url`, `skills` with `id`, `name`, `description`, `tags`), `security_schemes` are OpenAPI's;
what those have no word for is ours: `agents`, `endpoints`, `payment`. It is no agent card: we do not speak A2A.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from aiohttp import web

from tradepost.facade.agents.agents import AgentCapability, shown
from tradepost.facade.agents.catalogue import Known
from tradepost.facade.desk import Desk
from tradepost.facade.web.openapi import SECURITY
from tradepost.facade.web.operations import Call, Operation
from tradepost.release import release

NAME_CHARS_MAX: Final = 64
SKILL_HOST: Final = "https://post.example"  # in the file, in place of a desk's own address
MARKDOWN: Final = "text/markdown"
GROUP: Final = "Discovery"
_ABOUT: Final = (
    "Agents that do jobs for sats. Hire one over HTTP: no account is needed, pay each call with ecash (NUT-24) or a "
    "Lightning invoice. The same agents take jobs over Nostr (NIP-90)."
)


class NamesQuery(msgspec.Struct, frozen=True):
    """`name`: the part of a NIP-05 name before the @; without it, all."""

    name: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)] = ""


class Names(msgspec.Struct, frozen=True):
    """Keys (hex) by name, and the relays where each reads (NIP-05)."""

    names: dict[str, str]
    relays: dict[str, tuple[str, ...]]


class Skill(msgspec.Struct, frozen=True):
    """A kind of job that an agent does: `id` is the NIP-90 kind. `price_sat` is null where it is not announced."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...]
    kind: int
    price_sat: int | None
    params: tuple[str, ...]


class ManifestAgent(msgspec.Struct, frozen=True):
    """An agent of this post. `nip05` is its name for Nostr, and the address at which it takes Lightning tips."""

    name: str
    description: str
    icon_url: str | None
    npub: str
    public_key: str
    nip05: str
    lightning_address: str
    url: str
    skills: tuple[Skill, ...]


class Interface(msgspec.Struct, frozen=True):
    """What describes the operations."""

    type: str
    url: str


class Payment(msgspec.Struct, frozen=True):
    """How calls are paid: `methods` of HTTP 402, the mints whose ecash is taken, the most that is held for anybody."""

    currency: str
    methods: tuple[str, ...]
    mints: tuple[str, ...]
    custodial_sat_max: int
    custodial: str


class Manifest(msgspec.Struct, frozen=True):
    """This post's agents, and how to hire them. `endpoints` are methods and addresses, by the operation's name."""

    name: str
    description: str
    version: str
    url: str
    documentation_url: str
    api: Interface
    agents: tuple[ManifestAgent, ...]
    endpoints: dict[str, str]
    security_schemes: dict[str, dict[str, str]]
    payment: Payment
    relays: tuple[str, ...]


_BODY: Final = '{"agent": "<npub or name>", "kind": <kind>, "input": "<text>"}'
_ENDPOINTS: Final = {
    "list_agents": "GET {url}/v1/agents",
    "price_job": "POST {url}/v1/jobs/price",
    "create_job": "POST {url}/v1/jobs",
    "get_job": "GET {url}/v1/jobs/{{id}}",
    "watch_job": "GET {url}/v1/jobs/{{id}}/events",
    "get_result": "GET {url}/v1/jobs/{{id}}/result",
    "get_reputation": "GET {url}/v1/agents/{{agent}}/reputation",
    "verify_receipt": "POST {url}/v1/verify",
    "get_balance": "GET {url}/v1/balance",
    "withdraw": "POST {url}/v1/balance/withdrawals",
}


async def get_names(call: Call) -> Names:
    """Our agents by their short names, the same as in their Lightning addresses."""
    wanted = call.query.name.lower()
    keys = {
        name: known.public_key
        for name, known in call.desk.catalogue.own_by_name.items()
        if wanted in ("", name)
    }
    return Names(keys, dict.fromkeys(keys.values(), call.desk.post.pool.urls))


async def get_manifest(call: Call) -> Manifest:
    """The catalogue of this post's agents."""
    return manifest_of(call.desk)


async def get_llms(call: Call) -> web.Response:
    """The same for language models (llmstxt.org)."""
    return web.Response(text=llms_text(manifest_of(call.desk)), content_type=MARKDOWN)


async def get_skill(call: Call) -> web.Response:
    """The file that tells agents how to use this desk, with its address in it."""
    return web.Response(text=skill_text().replace(SKILL_HOST, call.desk.url), content_type=MARKDOWN)


def manifest_of(desk: Desk) -> Manifest:
    """What is true of the desk now."""
    settings, url = desk.settings, desk.url
    own = desk.catalogue.own_by_name.values()
    return Manifest(
        name=url.partition("://")[2],
        description=_ABOUT,
        version=release(),
        url=url,
        documentation_url=f"{url}/docs",
        api=Interface("openapi", f"{url}/openapi.json"),
        agents=tuple(_agent(desk, known) for known in own),
        endpoints={name: told.format(url=url) for name, told in _ENDPOINTS.items()},
        security_schemes={name: dict(scheme) for name, scheme in SECURITY.items()},
        payment=Payment(
            currency="sat",
            methods=("cashu (NUT-24)", "lightning (BOLT-11)"),
            mints=desk.post.wallet.mints,
            custodial_sat_max=settings.custodial_sat_max,
            custodial=desk.till.deposits.custodial,
        ),
        relays=desk.post.pool.urls,
    )


def llms_text(manifest: Manifest) -> str:
    """The manifest as Markdown, as llmstxt.org wants it."""
    url = manifest.url
    lines = [
        f"# {manifest.name}", "", f"> {manifest.description}", "",
        "- Amounts are whole sats. Errors have `code`, `message`, `action` (what to do next) and `money` (where the "
        "sats are).",
        f"- {manifest.payment.custodial}",
        "", "## How to hire", "",
        f"1. Price: `POST {url}/v1/jobs/price` with `{_BODY}`.",
        f"2. Hire: `POST {url}/v1/jobs?wait=50` with the same body and an `Idempotency-Key`. The answer 402 says how "
        "to pay.",
        "3. Pay: send it again with `X-Cashu: <token>` (a Cashu token of the amount, of one of the mints named), or "
        "pay the invoice and send it again with the ticket as `Authorization: Bearer <ticket>`.",
        "4. Result: `result` in the answer, or `GET` the link `result` of it. What was not spent stays with the "
        "ticket: withdraw it.",
        "", "## Agents", "",
    ]  # fmt: skip
    if not manifest.agents:
        lines.append(f"This post has none of its own: [those of others]({url}/v1/agents) can be hired here.")
    for agent in manifest.agents:
        work = "; ".join(f"{one.name} (kind {one.kind}), {_price(one)}" for one in agent.skills)
        about = f" {_line(agent.description)}" if agent.description else ""
        lines.append(f"- [{_line(agent.name)}]({agent.url}): {work}.{about}")
    lines += [
        "", "## Reference", "",
        f"- [SKILL.md]({url}/SKILL.md): how to use this desk, step by step, with examples",
        f"- [OpenAPI]({manifest.api.url}): every operation, machine-readable",
        f"- [Reference]({manifest.documentation_url}): the same for people",
        f"- [Agents]({url}/v1/agents): also those of others that can be hired here",
        "", "## Optional", "",
        f"- [Manifest]({url}/.well-known/agent-manifest.json): this page as JSON",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def skill_text() -> str:
    """SKILL.md: in the package when it is installed, at the root of a checkout."""
    packaged = Path(__file__).parents[2] / "SKILL.md"
    path = packaged if packaged.exists() else Path(__file__).parents[3] / "SKILL.md"
    return path.read_text(encoding="utf-8")


def _agent(desk: Desk, known: Known) -> ManifestAgent:
    agent = shown(desk, known)
    return ManifestAgent(
        name=agent.name,
        description=agent.about,
        icon_url=agent.picture,
        npub=agent.npub,
        public_key=agent.public_key,
        nip05=known.nip05,
        lightning_address=known.nip05,
        url=f"{desk.url}/v1/agents/{agent.npub}",
        skills=tuple(_skill(one) for one in agent.capabilities),
    )


def _skill(one: AgentCapability) -> Skill:
    return Skill(
        id=str(one.kind),
        name=one.name,
        description=one.about,
        tags=(one.name.lower(),),
        kind=one.kind,
        price_sat=one.price_sat,
        params=tuple(param.name for param in one.params),
    )


def _price(one: Skill) -> str:
    if one.price_sat is None:
        return "price on request"
    return f"{one.price_sat} sat" if one.price_sat else "free"


def _line(text: str) -> str:
    """Without what would begin something else in Markdown."""
    return " ".join(text.split()).replace("[", "(").replace("]", ")")


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="get_names",
        method="GET",
        path="/.well-known/nostr.json",
        about="Look up a name (NIP-05)\n\nThis post's agents by name, with the relays where each reads.",
        handler=get_names,
        query=NamesQuery,
        answer=Names,
        group=GROUP,
    ),
    Operation(
        name="get_manifest",
        method="GET",
        path="/.well-known/agent-manifest.json",
        about="Get the manifest\n\nThis post's agents and their prices, and how to hire and pay them.",
        handler=get_manifest,
        answer=Manifest,
        group=GROUP,
    ),
    Operation(
        name="get_llms",
        method="GET",
        path="/llms.txt",
        about="Get the manifest as text\n\nFor language models, as llmstxt.org has it.",
        handler=get_llms,
        media=MARKDOWN,
        group=GROUP,
    ),
    Operation(
        name="get_skill",
        method="GET",
        path="/SKILL.md",
        about="Get the skill\n\nFor agents that learn how to hire here: steps and examples.",
        handler=get_skill,
        media=MARKDOWN,
        group=GROUP,
    ),
)
