"""Which kinds are NIP-90 jobs, and what the registered ones are called: a map that is read both ways.

Source: NIP-90 and the data-vending-machines registry. What a kind takes and gives is in `schemas.py`.
"""

from typing import Final

from dvm.errors import BadRequest

FEEDBACK: Final = 7000
DELETION: Final = 5  # NIP-09
CHAT_MESSAGE: Final = 14  # NIP-17: what wallets (NUT-18) and people's clients read inside a gift wrap
ANNOUNCEMENT: Final = 31990  # NIP-89
HEARTBEAT: Final = 11998  # nips#2465; Amethyst hides an agent whose newest is older than 900 s
SITE_SNAPSHOT: Final = 5128  # NIP-5A: inside the range of jobs, but not a job

NAMES: Final[dict[int, str]] = {
    5000: "text extraction",
    5001: "summarisation",
    5002: "translation",
    5050: "text generation",
    5100: "image generation",
    5200: "video conversion",
    5201: "video translation",
    5202: "image to video",
    5250: "text to speech",
    5300: "content discovery",
    5301: "people discovery",
    5302: "content search",
    5303: "people search",
    5400: "event count",
    5500: "malware scan",
    5900: "event timestamping",
    5901: "OP_RETURN",
    5905: "event scheduling",
    5957: "arbitration",  # ours, not registered: `agreement.ARBITRATION`
    5970: "proof of work",
}


def is_request_kind(kind: int) -> bool:
    """Whether events of this kind ask for a job (NIP-90: 5000–5999, less NIP-5A's 5128)."""
    return 5000 <= kind <= 5999 and kind != SITE_SNAPSHOT


def result_kind(request_kind: int) -> int:
    """The kind that answers a request kind (NIP-90: plus 1000)."""
    return check_request_kind(request_kind) + 1000


def check_request_kind(kind: int) -> int:
    """Return `kind` if it asks for a job; else raise `BadRequest`."""
    if not is_request_kind(kind):
        reason = "is a site snapshot (NIP-5A), not a job" if kind == SITE_SNAPSHOT else "is not in 5000–5999"
        raise BadRequest(f"kind {kind} {reason}")
    return kind


def name_of(kind: int) -> str:
    """What people call this kind of job."""
    return NAMES.get(kind, f"job {kind}")


def kind_of(word: str) -> int:
    """The kind that a number or a name means: the other way of `name_of`. Raises `BadRequest` if there is none."""
    if word.isascii() and word.isdigit():
        return check_request_kind(int(word[:6]))
    kind = _KINDS.get(folded(word))
    if kind is None:
        raise BadRequest(
            f"no kind of job is called {word[:40]!r}; a kind's number, 5000–5999, is understood, and one of: "
            + ", ".join(NAMES.values())
        )
    return kind


def folded(name: str) -> str:
    """For comparing: case, dashes, and the two ways of spelling -isation mean nothing."""
    return name.casefold().replace("z", "s").replace("_", " ").replace("-", " ")


_KINDS: Final = {folded(name): kind for kind, name in NAMES.items()}
