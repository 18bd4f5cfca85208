"""`--sec`: the one option by which every command that signs is told whose key to use."""

from typing import Annotated, Final, NoReturn

import typer

from identity import BunkerUrl, EventTemplate, SecretKey, SignerUnavailable, encode_npub, make_rumor
from tradepost.cli.output import print_text, say, status
from tradepost.secrets import VARIABLES, Key, find_key
from tradepost.settings import Settings

Sec = Annotated[
    str,
    typer.Option(
        "--sec",
        metavar="KEY",
        show_default=False,
        help="Whose key signs: an nsec, an ncryptsec, hex, a bunker:// URL, @file with one of them, or - to be "
        "asked; also in NOSTR_SECRET_KEY. An npub prints the unsigned events and publishes nothing.",
    ),
]

_HARMLESS: Final = ("@", "ncryptsec1", "npub1", "nprofile1")


def chosen_key(settings: Settings, name: str, sec: str) -> Key:
    """The key of `name`, by `find_key`; says what one should know about where it was found."""
    key = find_key(settings, name, sec)
    tell_source(key, sec)
    return key


def tell_source(key: Key, sec: str) -> None:
    """Say so on stderr if the key is the shell's, or a secret among the arguments, where `ps` shows it to all."""
    if key.source in VARIABLES:
        say(f"[dim]signing with the key in {key.source}[/]")
    if isinstance(key.value, BunkerUrl) and status.is_terminal:
        say("[dim]asking the remote signer, which may want your consent[/]")
    is_secret = isinstance(key.value, SecretKey) or (isinstance(key.value, BunkerUrl) and key.value.secret)
    if sec and sec != "-" and not sec.startswith(_HARMLESS) and is_secret:
        say(
            "[yellow]a secret among the arguments is shown by ps and kept in the shell's history: better set "
            f"{VARIABLES[0]}, or use --sec @file or --sec -[/]"
        )


def print_unsigned(public_key: str, *templates: EventTemplate) -> None:
    """The events as this key would sign them, one JSON object a line: with their ids, without signatures."""
    for template in templates:
        print_text(make_rumor(template, public_key).to_json().decode())
    say(f"[dim]unsigned, of {encode_npub(public_key)}; nothing was published[/]")


class WouldSign(Exception):  # noqa: N818 - no error: what a `WatchOnly` has instead of a signature
    """An event that cannot be signed for want of the secret key."""

    def __init__(self, template: EventTemplate) -> None:
        super().__init__("this event would be signed")
        self.template = template


class WatchOnly:
    """An `identity.Signer` for an npub: it gets as far as the first event that is to be signed."""

    def __init__(self, public_key: str) -> None:
        self.public_key = public_key

    async def sign(self, template: EventTemplate) -> NoReturn:
        """Raise `WouldSign`."""
        raise WouldSign(template)

    async def nip44_encrypt(self, _peer: str, _plaintext: str) -> NoReturn:
        """Raise `SignerUnavailable`."""
        raise SignerUnavailable("an npub cannot encrypt: give its secret key, or a bunker:// URL")

    async def nip44_decrypt(self, _peer: str, _payload: str) -> NoReturn:
        """Raise `SignerUnavailable`."""
        raise SignerUnavailable("an npub cannot decrypt: give its secret key, or a bunker:// URL")

    nip04_encrypt = nip44_encrypt
    nip04_decrypt = nip44_decrypt
