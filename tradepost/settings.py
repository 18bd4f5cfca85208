"""Configuration: `tradepost.yaml` in the project's folder, and over it the environment (`TRADEPOST_…`).

A folder with a `tradepost.yaml` is a post of its own, with its data in `.tradepost` beside it. Anywhere else the post
is the user's own one, in TRADEPOST_HOME (default: the XDG data folder).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from yarl import URL

from dvm.orders.allowances import Allowance
from identity import InvalidKey
from identity.nip19 import parse_public_key
from relay_bridge import InvalidRelayUrl, normalise_relay_url
from relay_bridge.urls import ascii_host
from tradepost.errors import ConfigError
from tradepost.manifest import AGENTS_MAX, DeclaredAgent
from wallet import InvalidLnurl, UnknownMint
from wallet.exposure import MINT_SAT_MAX, Caps
from wallet.ledger import FEE_BPS_MAX
from wallet.lnurl_text import ADDRESS_NAME, parse_lnurl
from wallet.mint import normalise_mint_url
from wallet.terms import PRICE_SAT_MAX

FILE: Final = "tradepost.yaml"
DATA: Final = ".tradepost"
POW_BITS_MAX: Final = 32  # an hour of a core, and more than any customer would spend
RAILS: Final = ("mint", "nwc")
ARBITER: Final = "arbiter"  # the name of the key under which a post arbitrates
PUBLIC_RELAYS: Final = ("wss://relay.damus.io", "wss://nos.lol", "wss://relay.primal.net")

#: In our words what pydantic calls by Python's types.
_SAID: Final = {
    "missing": "it is missing",
    "tuple_type": "expected a list, like [one, two], or lines that begin with -",
    "dict_type": "expected names and values, like {name: value}",
    "model_type": "expected names and values, like {name: value}",
    "dataclass_type": "expected names and values, like {name: value}",
    "unexpected_keyword_argument": "there is no such name",
}

Urls = Annotated[tuple[str, ...], NoDecode]
Positive = Annotated[int, Field(gt=0)]
FeeBps = Annotated[int, Field(ge=0, le=FEE_BPS_MAX)]


@dataclass(frozen=True)
class RequestLimits:
    """Requests within a minute: of an address, of an account, of one that paid; costly ones of all who never did."""

    anonymous: Positive = 120
    authenticated: Positive = 300
    paying: Positive = 1200
    unpaid: Positive = 6000


class Settings(BaseSettings):
    """What a post needs to know before it opens. Arguments win over the environment, as `load` wants it for a file."""

    model_config = SettingsConfigDict(env_prefix="TRADEPOST_", extra="forbid", frozen=True)

    #: Relays to listen on and to answer at, ws:// or wss://.
    relays: Urls = PUBLIC_RELAYS
    #: Mints whose coins we take and keep: they hold our sats, so there is no default.
    mints: Urls = ()
    #: The most that may be at one mint, ours or locked for our jobs; and at single ones, by URL.
    mint_sat_max: Positive = MINT_SAT_MAX
    mint_sat_max_of: dict[str, Positive] = {}
    #: A Lightning address or LNURL: `up` sends there what is more at a mint than `sweep_sat_above`, or its cap.
    sweep_to: str | None = None
    sweep_sat_above: Annotated[int, Field(ge=0)] | None = None
    #: By what Lightning is made and paid, the first that can: `mint` (our mints as gateway), `nwc` (your wallet).
    rails: Urls = ("mint",)
    #: The connection to your wallet for `nwc`, if it is not a file of the post.
    nwc: SecretStr | None = None
    #: The Python file that makes the `Agent`, relative to the folder of the configuration.
    code: str = "agent.py"
    #: Agents described here instead of in Python.
    agents: Annotated[tuple[DeclaredAgent, ...], Field(max_length=AGENTS_MAX)] = ()
    #: The agent's key if it is not a file of the post: a bunker:// URL or an ncryptsec.
    key: SecretStr | None = None
    #: Where keys, seed and database are, relative to the folder of the configuration.
    data: Path = Path(DATA)
    #: Whether relays that customers name may be on private or loopback addresses.
    allow_private_relays: bool = False
    #: Whether URLs that customers give as input may lead to private or loopback addresses.
    allow_private_urls: bool = False
    #: The post's cut of what a job brings, in hundredths of a percent; and of single agents, by short name.
    fee_bps: FeeBps = 500
    agent_fee_bps: dict[str, FeeBps] = {}
    #: What agents may spend when they buy from others, by short name: {job_sat: …, day_sat: …}. Without one: nothing.
    allowances: dict[str, Allowance] = {}
    #: Whose rulings we accept, as customer and as provider: npubs. Without one there is no escrow.
    arbiters: Urls = ()
    #: Whether this post arbitrates between others, under the key `arbiter`.
    arbiter: bool = False
    #: What hearing a dispute costs whoever begins it; an arbiter that changes it hears earlier cases for nothing.
    arbiter_fee_sat: Annotated[int, Field(ge=0, le=PRICE_SAT_MAX)] = 0
    #: How long a customer may look at a result in escrow, and an arbiter may take over a dispute.
    root_seconds: Positive = 300
    review_seconds: Positive = 600
    dispute_seconds: Positive = 86_400
    job_seconds_max: Positive = 600
    concurrent_jobs_max: Positive = 64
    queue_jobs_max: Positive = 1000
    #: Requests to one agent in a minute: of one customer who has paid it, of one stranger (0: strangers are refused),
    #: and of all strangers together.
    customer_requests_per_minute_max: Positive = 600
    stranger_requests_per_minute_max: Annotated[int, Field(ge=0)] = 30
    strangers_requests_per_minute_max: Positive = 6000
    #: Bits of proof of work (NIP-13) on each request of a stranger, and what a job costs one at least.
    stranger_pow_bits: Annotated[int, Field(ge=0, le=POW_BITS_MAX)] = 0
    stranger_sat_min: Annotated[int, Field(ge=0, le=PRICE_SAT_MAX)] = 0
    #: npubs that are ignored, and npubs that are no strangers though they never paid.
    blocked: Urls = ()
    allowed: Urls = ()
    offer_seconds: Positive = 900
    #: What a customer who has paid an agent before may owe it, in msat, and never more than it has paid.
    credit_msat_max: Annotated[int, Field(ge=0)] = 0
    #: What an agent does for such a customer before it buys the sealed results, in msat, with the same bound.
    reveal_msat_max: Annotated[int, Field(ge=0)] = 0
    #: How long a payment may wait for us before its sender can take it back.
    locktime_seconds: Annotated[int, Field(gt=300)] = 3600

    #: Where Lightning wallets reach this post: an https:// address without path, whose server passes on to
    #: `gateway_host` and `gateway_port`. With it, `up` serves LNURL too.
    gateway_url: str | None = None
    gateway_host: str = "127.0.0.1"
    gateway_port: Annotated[int, Field(gt=0, lt=65536)] = 8790
    #: Further addresses under which callers reach the same desk through proxies, https://host: what they may sign.
    http_origins: Urls = ()
    #: Lightning addresses NAME@host that fund this wallet, besides those of the agents.
    gateway_names: Urls = ("tips",)
    #: Whether clients are told apart by X-Forwarded-For, which a server in front of us writes.
    gateway_behind_proxy: bool = False
    #: Requests within a minute, by tier of callers; one that asks a mint or a relay counts for six.
    http_requests_per_minute: RequestLimits = RequestLimits()
    #: Connections that are open at a time: in all, and of one address; behind a proxy, requests of one under way.
    gateway_connections_max: Positive = 1000
    gateway_connections_each_max: Positive = 100
    #: Whether the log says from which address a request came.
    log_addresses: bool = False
    #: npubs that may ask the front desk how the post is.
    operators: Urls = ()
    #: Where Prometheus reads metrics, at /metrics: a port for the operator alone. Without one there are none.
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(gt=0, lt=65536)] | None = None
    #: The most that is held for anybody who orders a job with a Lightning wallet, or calls over HTTP.
    custodial_sat_max: Positive = 10_000
    tip_sat_max: Positive = 100_000

    _loaded: tuple[Path, dict[str, Any]] | None = PrivateAttr(None)

    @field_validator(
        "relays",
        "mints",
        "rails",
        "gateway_names",
        "http_origins",
        "arbiters",
        "blocked",
        "allowed",
        "operators",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Lists come from YAML as lists and from the environment separated by commas or spaces."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("relays", "mints")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        normalise = normalise_relay_url if info.field_name == "relays" else normalise_mint_url
        try:
            return tuple(dict.fromkeys(normalise(url) for url in urls))
        except (InvalidRelayUrl, UnknownMint) as error:
            raise ValueError(str(error)) from None

    @field_validator("mint_sat_max_of")
    @classmethod
    def _check_caps(cls, caps: dict[str, int]) -> dict[str, int]:
        try:
            return {normalise_mint_url(url): sat for url, sat in caps.items()}
        except UnknownMint as error:
            raise ValueError(str(error)) from None

    @field_validator("sweep_to")
    @classmethod
    def _check_sweep(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                parse_lnurl(text, allow_private=True)  # whether it may lead there is seen when it is asked
        except InvalidLnurl as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("arbiters", "blocked", "allowed", "operators")
    @classmethod
    def _check_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(parse_public_key(key) for key in keys))
        except InvalidKey as error:
            raise ValueError(str(error)) from None

    @field_validator("rails")
    @classmethod
    def _check_rails(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [name for name in names if name not in RAILS]:
            raise ValueError(f"{bad[0]!r} is no Lightning rail; there are {' and '.join(RAILS)}")
        return tuple(dict.fromkeys(names))

    @field_validator("gateway_url")
    @classmethod
    def _check_gateway(cls, url: str | None) -> str | None:
        return url and _origin(url)

    @field_validator("http_origins")
    @classmethod
    def _check_origins(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_origin(url) for url in urls))

    @field_validator("gateway_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [name for name in names if not ADDRESS_NAME.fullmatch(name)]:
            raise ValueError(f"{bad[0]!r} is no name of a Lightning address: a-z, 0-9, '-', '_' and '.'")
        return names

    @classmethod
    def load(cls, folder: Path | None = None, **given: Any) -> Self:
        """Read the configuration of `folder` (default: here): what is `given`, then the environment, then the file.

        Raises `ConfigError` naming the field and where it is set.
        """
        folder = (folder or Path.cwd()).absolute()
        path = folder / FILE
        is_project = path.exists()
        values = (
            {name: v for name, v in _read(path).items() if _variable(name) not in os.environ}
            if is_project
            else {}
        )
        try:
            settings = cls(**(values | given))
        except ValidationError as error:
            raise ConfigError(_explain(error, path, values, given)) from None
        base = folder / DATA if is_project else home()
        data = folder / settings.data if "data" in settings.model_fields_set else base
        settings = settings.model_copy(update={"data": data, "code": str(folder / settings.code)})
        settings._loaded = (folder, given)
        return settings

    @property
    def gateway_address(self) -> str:
        """Where callers reach this post, without a slash at the end."""
        return self.gateway_url or f"http://{self.gateway_host}:{self.gateway_port}"

    @property
    def file(self) -> Path | None:
        """Where the folder's configuration is, or would be; None if these settings were loaded from none."""
        return None if self._loaded is None else self._loaded[0] / FILE

    def reload(self) -> Self:
        """What `load` would say now. Raises `ConfigError`."""
        if self._loaded is None:
            return self
        folder, given = self._loaded
        return self.load(folder, **given)

    @property
    def caps(self) -> Caps:
        """How much may be at one mint."""
        return Caps(self.mint_sat_max, self.mint_sat_max_of, self.sweep_sat_above)

    @property
    def database(self) -> Path:
        """The post's database file."""
        return self.data / "post.sqlite"

    @property
    def seed_file(self) -> Path:
        """The file with the wallet's words."""
        return self.data / "seed"

    @property
    def nwc_file(self) -> Path:
        """The file with the connection to a Lightning wallet."""
        return self.data / "nwc"

    def key_file(self, name: str) -> Path:
        """The file with the key of an agent, or of the `customer`."""
        return self.data / "keys" / f"{name}.nsec"

    def next_key_file(self, public_key: str) -> Path:
        """Where a key waits that an agent is about to go over to."""
        return self.data / "keys" / "next" / f"{public_key}.nsec"

    def retired_key_file(self, public_key: str) -> Path:
        """Where a key of an agent is kept that has gone over to another one."""
        return self.data / "keys" / "retired" / f"{public_key}.nsec"


def _origin(text: str) -> str:
    """An address of this post as browsers write origins: ASCII, lowercase, no default port, no slash at the end.

    Raises `ValueError`.
    """
    try:
        url = URL(text.strip())
        host, is_origin = ascii_host(url.raw_host or ""), url == url.origin()
    except ValueError:
        url, host, is_origin = URL(), "", False
    is_local = url.scheme == "http" and host in ("127.0.0.1", "localhost")
    if not is_origin or not (url.scheme == "https" or is_local):
        raise ValueError(
            "the gateway's address is https://host, without a path or anything else: wallets follow no other"
        )
    return f"{url.scheme}://{host}" if url.is_default_port() else f"{url.scheme}://{host}:{url.port}"


def make_private(folder: Path) -> None:
    """Make `folder` and what is missing above it, all for their owner alone: mode 0700, as XDG wants it too."""
    for missing in reversed((folder, *folder.parents)):
        missing.mkdir(mode=0o700, exist_ok=True)


def home() -> Path:
    """The folder of the user's own post."""
    if named := os.environ.get("TRADEPOST_HOME"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tradepost"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {error.problem}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected names and values, like `relays: [wss://…]`")
    return {str(name): value for name, value in values.items()}


def _variable(field: str) -> str:
    return f"TRADEPOST_{field.upper()}"


def _explain(error: ValidationError, path: Path, values: dict[str, Any], given: dict[str, Any]) -> str:
    """The first of pydantic's complaints, in our words and with the place to mend it."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    where = f"{path}: {field}" if field in values else _variable(field)
    where = field if field in given else where
    where += _place(first["loc"][1:])
    if first["type"] == "extra_forbidden" and len(first["loc"]) > 1:
        return f"{where}: there is no such setting; docs/runners.md has those of agents"
    if first["type"] == "extra_forbidden":
        meant = get_close_matches(field, Settings.model_fields, 1)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(Settings.model_fields)}"
        return f"{where}: there is no such setting; {hint}"
    return f"{where}: {_SAID.get(first['type']) or first['msg'].removeprefix('Value error, ')}"


def _place(parts: Sequence[int | str]) -> str:
    """Where in a file something is, as people count: ` 1, serves 2, run.http`."""
    told = ""
    for part in parts:
        told += f" {part + 1}," if isinstance(part, int) else f" {part}" if told.endswith(",") else f".{part}"
    return told.removesuffix(",")
