"""`tradepost key`: the Nostr keys of this post, bare, under a password or with a remote signer."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from identity import (
    BunkerUrl,
    EncryptedKey,
    Npub,
    SecretKey,
    StoredKey,
    encode_npub,
    encode_nsec,
    nip49,
    parse_credential,
    parse_public_key,
    read_key_file,
    replace_key_file,
    write_key_file,
)
from relay_bridge import normalise_relay_url
from store import SystemClock
from tradepost.bunkers import invite_bunker, memory_of
from tradepost.cli.completing import complete_key
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.cli.qr import offer_qr
from tradepost.errors import ConfigError, TradepostError
from tradepost.passwords import NEW_PASSWORD, PASSWORD, ask_hidden, choose_password, unlock
from tradepost.post import is_of_words, open_post, read_seed
from tradepost.rotating import rotate as rotate_key
from tradepost.secrets import CUSTOMER, Key, find_key, open_signer
from tradepost.settings import ARBITER, Settings, make_private

app = typer.Typer(
    name="key",
    help="Keys of this post's agents and of its customer.",
    epilog="Example: `tradepost key show`, `tradepost key encrypt shop`",
    rich_markup_mode=None,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Whose key: `customer`, or an agent's short name.",
        autocompletion=complete_key,
    ),
]
Encrypt = Annotated[
    bool, typer.Option("--encrypt", help="Keep it under a password (NIP-49), which is asked for twice.")
]

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LINE_CHARS_MAX: Final = 4096


def register(root: typer.Typer) -> None:
    """Add the commands to the application."""
    root.add_typer(app)


@app.command()
def new(name: Name = "customer", encrypt: Encrypt = False, as_json: AsJson = False) -> None:
    """Make a new key and store it; never overwrites one.

    This post's words give it, so `tradepost restore` brings it back. With --encrypt it is drawn at random instead, as
    the words are no secret to who has the folder: keep a copy of its file. Example: `tradepost key new shop --encrypt`
    """
    path = _free_path(name)
    key = SecretKey.generate() if encrypt else read_seed(Settings.load()).identity(name)
    stored = _encrypted(key, name, nip49.Handling.GUARDED) if encrypt else key
    write_key_file(path, stored)
    _print(name, key.public_key, stored, as_json=as_json)
    say(f"stored in {quoted(str(path))}")


@app.command()
def show(
    name: Name = "customer",
    secret: Annotated[
        bool,
        typer.Option("--secret", help="Print what is stored: the nsec, the ncryptsec, or the bunker:// URL."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a public key (npub).

    Of an encrypted key the password is asked for, or taken from TRADEPOST_PASSWORD or the file in
    TRADEPOST_PASSWORD_FILE; with --secret it is not needed. Example: `tradepost key show shop --json`
    """
    stored = _stored(name)
    if isinstance(stored, SecretKey) and not is_of_words(Settings.load(), name, stored.public_key):
        say(f"[dim]not made of this post's words: keep a copy of {quoted(str(_path(name)))}[/]")
    if secret:
        _print_secret(name, stored, as_json=as_json)
    else:
        _print(name, _public_key(name, stored), stored, as_json=as_json)


@app.command(name="import")
def import_(name: Name = "customer", encrypt: Encrypt = False, as_json: AsJson = False) -> None:
    """Store a key that you have, in any of its forms.

    An nsec, an ncryptsec, 64 hex digits, or a remote signer's bunker:// URL. It is asked for on the terminal, or read
    from stdin. A remote signer is connected to once, so that it can ask you for consent. Never overwrites a key.

    Example: `pass show nostr | tradepost key import shop`
    """
    path = _free_path(name)
    text = ask_hidden("Key: ", or_else="stdin") if sys.stdin.isatty() else sys.stdin.readline(_LINE_CHARS_MAX)
    given = parse_credential(text)
    if isinstance(given, Npub):
        raise TradepostError("this is a public key (npub), which can sign nothing; give the secret one")
    stored: StoredKey = given
    if encrypt:
        if not isinstance(given, SecretKey):
            raise TradepostError("only an nsec or a key in hex can be encrypted; leave --encrypt out")
        stored = _encrypted(given, name, nip49.Handling.EXPOSED)
    public_key = _public_key(name, given)
    write_key_file(path, stored)
    _print(name, public_key, stored, as_json=as_json)
    say(f"stored in {quoted(str(path))}")


@app.command()
def connect(
    name: Name = "customer",
    relay: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Where to meet the signer; default: the relays of this post."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Leave the signing to a remote signer (NIP-46).

    Prints a nostrconnect:// URL to give to it, and waits until it was accepted. If your signer shows a bunker:// URL
    instead, use `tradepost key import`. Example: `tradepost key connect shop --relay wss://relay.example`
    """
    path, settings = _free_path(name), Settings.load()
    relays = [normalise_relay_url(url) for url in relay or settings.relays]

    def show_url(url: str) -> None:
        if as_json:
            print_json({"nostrconnect": url})
        else:
            print_text(url)
            offer_qr(url, None)
        say("give this URL to your signer; waiting for it, Ctrl-C gives up")

    async def meet() -> tuple[BunkerUrl, str]:
        clock = SystemClock()
        url = await invite_bunker(settings, name, relays, clock=clock, on_url=show_url)
        async with open_signer(settings, Key(name, url, "nostrconnect"), clock=clock) as signer:
            return url, signer.public_key

    stored, public_key = asyncio.run(meet())
    write_key_file(path, stored)
    _print(name, public_key, stored, as_json=as_json)
    say(f"stored in {quoted(str(path))}")


@app.command()
def encrypt(name: Name = "customer") -> None:
    """Put a stored key under a password (NIP-49), in place.

    The password is asked for twice, or taken from TRADEPOST_PASSWORD or the file in TRADEPOST_PASSWORD_FILE. Whoever
    forgets it has lost the key. What the disk held before may still be found on it.

    Example: `tradepost key encrypt shop`
    """
    stored = _stored(name)
    if not isinstance(stored, SecretKey):
        raise TradepostError(
            f"the key of {name} is no bare key; `tradepost key password {name}` changes a password"
        )
    _replace(name, _encrypted(stored, name, nip49.Handling.EXPOSED))
    if is_of_words(Settings.load(), name, stored.public_key):
        say(
            "[yellow]this post's words give the same key, without a password, to whoever can read "
            f"{quoted(str(Settings.load().seed_file))}[/]"
        )


@app.command()
def decrypt(name: Name = "customer") -> None:
    """Take the password off a stored key, in place.

    Example: `tradepost key decrypt shop`
    """
    _replace(name, unlock(_locked(name), f"the key of {name}"))


@app.command()
def password(name: Name = "customer") -> None:
    """Change the password of a stored key, in place.

    Without a terminal: TRADEPOST_PASSWORD is the old one and TRADEPOST_NEW_PASSWORD the new one, or with _FILE behind
    the name, files that hold them. Example: `tradepost key password shop`
    """
    stored = _locked(name)
    key = unlock(stored, f"the key of {name}")
    _replace(name, _encrypted(key, name, nip49.handling_of(stored.text), NEW_PASSWORD))


@app.command()
def rotate(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An agent's short name.", autocompletion=complete_key)
    ],
    lost: Annotated[
        str,
        typer.Option(
            metavar="NPUB", help="The key that was lost or stolen: it signs nothing, and ends at once."
        ),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The new key, in any form; default: the next one of this post's words."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go over to another key: receipts and log come along.

    Both keys sign that, and for an hour the agent is served under both. By default the log has named the new key before
    anybody could know it, so even a thief of the old one cannot take the log along: docs/keys.md. If it is killed, run
    it again. Stop `tradepost up` first.

    Example: `tradepost key rotate shop`, `tradepost key rotate shop --lost npub1…`
    """
    settings, old = Settings.load(), _handed_on(name, lost)
    given = read_key_file(to) if to else None

    async def go_over() -> str:
        async with open_post(settings) as post:
            return await rotate_key(settings, post, name, old, given)

    was = _stored(name) if _path(name).exists() else None
    before = _how(was) if was else ""
    public_key = asyncio.run(go_over())
    stored = _stored(name)
    if isinstance(stored, SecretKey) and stored.public_key != public_key:
        npub = encode_npub(public_key)
        raise TradepostError(
            f"{name} was handed on to {npub}, and {_path(name)} holds another key: nothing was done. "
            f"`tradepost restore` brings that key back, and `tradepost key rotate {name} --lost {npub}` goes over to "
            "the next one"
        )
    _print(name, public_key, stored, as_json=as_json)
    if isinstance(was, SecretKey) and was.public_key == public_key:
        when = "was handed on to this key already" if lost else "came to this key less than an hour ago"
        say(f"{quoted(name)} {when}: nothing was done")
        return
    served = "under it" if lost else "under it, and for an hour under the old one"
    say(f"stored in {quoted(str(_path(name)))}; `tradepost up` serves {served}")
    if given and not is_of_words(settings, name, public_key):
        say("[yellow]it is another key than its log named, and readers are told so: docs/keys.md[/]")
    if isinstance(stored, SecretKey) and before not in ("", _how(stored)):
        say(
            f"[yellow]it was {before} and is bare now: `tradepost key encrypt {quoted(name)}` or --to FILE[/]"
        )


def _handed_on(name: str, lost: str) -> Key:
    """The key to go over from. Raises `ConfigError` if it is not in its file, as the new one comes there."""
    if name in (CUSTOMER, ARBITER):
        raise ConfigError(f"the key of the {name} has no log; move its file away for a new one")
    path = _path(name)
    if lost:
        return Key(name, Npub(parse_public_key(lost)), "--lost")
    _stored(name)
    key = find_key(Settings.load(), name)
    if key.source != str(path):
        raise ConfigError(
            f"{name} signs with the key in {key.source}, where no new one can be put: unset that, and store it with "
            f"`tradepost key import {name}` first"
        )
    return key


def _encrypted(key: SecretKey, name: str, handling: nip49.Handling, variable: str = PASSWORD) -> EncryptedKey:
    chosen = choose_password(f"the key of {name}", variable)
    text = nip49.encrypt(key, chosen, handling=handling)
    if nip49.decrypt(text, chosen) != key:  # asked before the other form of it is gone
        raise TradepostError("the encrypted key does not open again; nothing was changed")
    return EncryptedKey(text)


def _replace(name: str, key: StoredKey) -> None:
    path = _path(name)
    replace_key_file(path, key)
    say(f"{quoted(str(path))} is {_how(key)} now")


def _public_key(name: str, stored: StoredKey) -> str:
    """Whose key it is: after unlocking it, or asking the remote signer."""
    match stored:
        case SecretKey():
            return stored.public_key
        case EncryptedKey():
            return unlock(stored, f"the key of {name}").public_key
        case BunkerUrl():
            settings = Settings.load()
            return memory_of(settings, name, stored.remote_key).public_key or asyncio.run(
                _ask(settings, name, stored)
            )


async def _ask(settings: Settings, name: str, url: BunkerUrl) -> str:
    async with open_signer(settings, Key(name, url, "import")) as signer:
        return signer.public_key


def _print(name: str, public_key: str, stored: StoredKey, *, as_json: bool) -> None:
    npub = encode_npub(public_key)
    if as_json:
        print_json({"name": name, "npub": npub, "pubkey": public_key, "kept": _how(stored)})
    else:
        print_text(npub)


def _print_secret(name: str, stored: StoredKey, *, as_json: bool) -> None:
    known: dict[str, str] = {}
    match stored:
        case SecretKey():
            form, text = "nsec", encode_nsec(stored)
            known = {"npub": encode_npub(stored.public_key), "pubkey": stored.public_key}
        case EncryptedKey(text):
            form = "ncryptsec"
        case BunkerUrl():
            form, text = "bunker", stored.to_text()
    if as_json:
        print_json({"name": name, **known, form: text, "kept": _how(stored)})
    else:
        print_text(text)


def _how(stored: StoredKey) -> str:
    match stored:
        case SecretKey():
            return "bare"
        case EncryptedKey():
            return "encrypted"
        case BunkerUrl():
            return "with a remote signer"


def _stored(name: str) -> StoredKey:
    path = _path(name)
    if not path.exists():
        raise ConfigError(f"there is no key {name!r} ({path}); make one with `tradepost key new {name}`")
    return read_key_file(path)


def _locked(name: str) -> EncryptedKey:
    stored = _stored(name)
    if not isinstance(stored, EncryptedKey):
        raise TradepostError(
            f"the key of {name} has no password; `tradepost key encrypt {name}` gives it one"
        )
    return stored


def _free_path(name: str) -> Path:
    """Where a new key goes. Raises `ConfigError` if one is there: told before anybody types a password."""
    path = _path(name)
    if path.exists():
        raise ConfigError(f"{path} exists, and a key is never overwritten: move it away first")
    make_private(path.parent)
    return path


def _path(name: str) -> Path:
    """Where the key of that name is. Raises `TradepostError` for a name that no agent can have."""
    if not _NAME.fullmatch(name):
        raise TradepostError(
            f"{name!r} is no short name: lower-case letters and digits, with dashes between them"
        )
    return Settings.load().key_file(name)
