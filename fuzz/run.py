"""One target under atheris, in this process: `python -m fuzz.run TARGET CORPUS_FOLDER [libFuzzer's options]`."""

import random
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import atheris

OURS: Final = ("identity", "relay_bridge", "wallet", "dvm", "tradepost", "bolt11", "bech32")
HANG_CPU_SECONDS: Final = 5.0

with atheris.instrument_imports(include=list(OURS)):
    from fuzz.mutate import mutate
    from fuzz.targets import Target, load

    # Before anything else is imported by a target, so that all of it is seen.
    TARGET: Final[Target] = load(sys.argv[1])


class HangError(BaseException):
    """One input took too long."""


class _Watched:
    """Runs the target. An input that takes more than `HANG_CPU_SECONDS` of processor time is a finding.

    Not by `-timeout`, which counts the time on the wall: the process may have been stopped meanwhile.
    """

    def __init__(self) -> None:
        self._inputs = 0
        self._seen = -1
        signal.signal(signal.SIGVTALRM, self._look)
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG_CPU_SECONDS, HANG_CPU_SECONDS)

    def __call__(self, data: bytes) -> None:
        self._inputs += 1
        TARGET.run(data)

    def _look(self, _number: int, _frame: FrameType | None) -> None:
        if self._inputs == self._seen:
            raise HangError(f"an input took more than {HANG_CPU_SECONDS} s of processor time")
        self._seen = self._inputs


def _mutated(data: bytes, size_max: int, seed: int) -> bytes:
    chance = random.Random(seed)
    choice, body = data[:1], data[1:]
    if not choice or chance.random() < 0.02:
        choice = bytes([chance.randrange(len(TARGET.checks))])
    body = mutate(body, chance, TARGET.words, lambda raw: atheris.Mutate(raw, size_max - 1))
    return (choice + body)[:size_max]


def main() -> None:
    """Write the seeds into the corpus and begin; libFuzzer ends the process."""
    corpus = Path(sys.argv[2])
    for number, seed in enumerate(TARGET.corpus()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in TARGET.words), encoding="ascii")
    options = [
        f"-dict={words}",
        "-timeout=1000000",
        "-handle_usr1=1",
        "-print_final_stats=1",
        *sys.argv[3:],
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], _Watched(), custom_mutator=_mutated)
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(
        chr(byte) if 32 < byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word.encode()
    )


main()
