"""`tradepost key`: the Nostr keys of this post."""

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from identity import SecretKey, encode_npub, encode_nsec, read_key_file, write_key_file
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.errors import ConfigError, TradepostError
from tradepost.settings import Settings

app = typer.Typer(name="key", help="Keys of this post's agents and of its customer.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key: `customer`, or an agent's short name.")]


_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@app.command()
def new(name: Name = "customer", as_json: AsJson = False) -> None:
    """Draw a new key and store it; never overwrites one."""
    path = _path(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = SecretKey.generate()
    write_key_file(path, key)
    _print(name, key, secret=False, as_json=as_json)
    say(f"stored in {quoted(str(path))}")


@app.command()
def show(
    name: Name = "customer",
    secret: Annotated[
        bool, typer.Option("--secret", help="Print the secret key (nsec). Show it to nobody.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a public key (npub)."""
    path = _path(name)
    if not path.exists():
        raise ConfigError(f"there is no key {name!r} ({path}); make one with `tradepost key new {name}`")
    _print(name, read_key_file(path), secret=secret, as_json=as_json)


def _print(name: str, key: SecretKey, *, secret: bool, as_json: bool) -> None:
    shown = {"name": name, "npub": encode_npub(key.public_key), "pubkey": key.public_key}
    if secret:
        shown["nsec"] = encode_nsec(key)
    if as_json:
        print_json(shown)
    else:
        print_text(shown["nsec"] if secret else shown["npub"])


def _path(name: str) -> Path:
    """Where the key of that name is. Raises `TradepostError` for a name that no agent can have."""
    if not _NAME.fullmatch(name):
        raise TradepostError(
            f"{name!r} is no short name: lower-case letters and digits, with dashes between them"
        )
    return Settings.load().key_file(name)
