"""Configuration: `tradepost.yaml` in the project's folder, and over it the environment (`TRADEPOST_…`).

A folder with a `tradepost.yaml` is a post of its own, with its data in `.tradepost` beside it. Anywhere else the post
is the user's own one, in TRADEPOST_HOME (default: the XDG data folder).
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from relay_bridge import InvalidRelayUrl, normalise_relay_url
from tradepost.errors import ConfigError
from wallet import UnknownMint
from wallet.mint import normalise_mint_url

FILE: Final = "tradepost.yaml"
DATA: Final = ".tradepost"
PUBLIC_RELAYS: Final = ("wss://relay.damus.io", "wss://nos.lol", "wss://relay.primal.net")

Urls = Annotated[tuple[str, ...], NoDecode]
Positive = Annotated[int, Field(gt=0)]


class Settings(BaseSettings):
    """What a post needs to know before it opens. Arguments win over the environment, as `load` wants it for a file."""

    model_config = SettingsConfigDict(env_prefix="TRADEPOST_", extra="forbid", frozen=True)

    #: Relays to listen on and to answer at, ws:// or wss://.
    relays: Urls = PUBLIC_RELAYS
    #: Mints whose coins we take and keep: they hold our sats, so there is no default.
    mints: Urls = ()
    #: The Python file that makes the `Agent`, relative to the folder of the configuration.
    code: str = "agent.py"
    #: The agent's key if it is not a file of the post: a bunker:// URL or an ncryptsec.
    key: SecretStr | None = None
    #: Where keys, seed and database are, relative to the folder of the configuration.
    data: Path = Path(DATA)
    #: Whether relays that customers name may be on private or loopback addresses.
    allow_private_relays: bool = False
    #: Whether URLs that customers give as input may lead to private or loopback addresses.
    allow_private_urls: bool = False
    job_seconds_max: Positive = 600
    concurrent_jobs_max: Positive = 64
    queue_jobs_max: Positive = 1000
    offer_seconds: Positive = 900
    #: How long a payment may wait for us before its sender can take it back.
    locktime_seconds: Annotated[int, Field(gt=300)] = 3600

    @field_validator("relays", "mints", mode="before")
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

    @classmethod
    def load(cls, folder: Path | None = None) -> Self:
        """Read the configuration of `folder` (default: here), the environment over the file.

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
            settings = cls(**values)
        except ValidationError as error:
            raise ConfigError(_explain(error, path, values)) from None
        base = folder / DATA if is_project else home()
        data = folder / settings.data if "data" in settings.model_fields_set else base
        return settings.model_copy(update={"data": data, "code": str(folder / settings.code)})

    @property
    def database(self) -> Path:
        """The post's database file."""
        return self.data / "post.sqlite"

    @property
    def seed_file(self) -> Path:
        """The file with the wallet's words."""
        return self.data / "seed"

    def key_file(self, name: str) -> Path:
        """The file with the key of an agent, or of the `customer`."""
        return self.data / "keys" / f"{name}.nsec"


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


def _explain(error: ValidationError, path: Path, values: dict[str, Any]) -> str:
    """The first of pydantic's complaints, in our words and with the place to mend it."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    where = f"{path}: {field}" if field in values else _variable(field)
    if first["type"] == "extra_forbidden":
        meant = get_close_matches(field, Settings.model_fields, 1)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(Settings.model_fields)}"
        return f"{where}: there is no such setting; {hint}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
