"""Changes to an input. Where it is JSON or CBOR the tree is changed, so that the result is read further than its braces."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import cbor2

_ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2, 255, 65536, 2**31, 2**53, 2**63, 2**64 - 1, 2**64, 10**30, 1.5, -0.0, 1e300,
    "", "0", "00", "-1", " ", "\x00", "\ud800", "é", "ß", "a" * 1100, [], [[]], {}, {"": None},
)  # fmt: skip
_DEPTH_MAX: Final = 40

Scramble = Callable[[bytes], bytes]
_Place = tuple[Any, Any]


def mutate(data: bytes, chance: random.Random, words: Sequence[str], scramble: Scramble) -> bytes:
    """`data` changed: its tree if it has one, else (and sometimes anyway) its bytes, by `scramble`."""
    if chance.random() < 0.8:
        for read, write in (
            (json.loads, lambda tree: json.dumps(tree).encode()),
            (cbor2.loads, cbor2.dumps),
        ):
            try:
                tree = read(data)
                if isinstance(tree, dict | list):
                    for _ in range(chance.choice((1, 1, 1, 2, 4))):
                        tree = _change(tree, chance, words, scramble)
                    return write(tree)
            except Exception:  # noqa: BLE001 - not of this form, or changed beyond it: the bytes it is, then
                continue
    return scramble(data)


def _change(tree: Any, chance: random.Random, words: Sequence[str], scramble: Scramble) -> Any:
    root = [copy.deepcopy(tree)]
    places = _places(root)
    container, key = chance.choice(places)
    value = container[key]
    match chance.randrange(8):
        case 0:
            container[key] = chance.choice(_ODD)
        case 1:
            container[key] = chance.choice(words) if words else ""
        case 2:
            other, at = chance.choice(places)
            container[key] = copy.deepcopy(other[at])
        case 3 if container is not root:
            del container[key]
        case 4 if isinstance(container, list):
            container[key:key] = [copy.deepcopy(value)] * chance.choice((1, 1, 2, 30))
        case 4 if isinstance(container, dict):
            container[chance.choice(words) if words else "x"] = value
        case 5:
            container[key] = chance.choice(([value], {"a": value}, [value, value]))
        case _:
            container[key] = _bent(value, chance, scramble)
    return root[0]


def _bent(value: Any, chance: random.Random, scramble: Scramble) -> Any:
    match value:
        case str():
            return scramble(value.encode(errors="surrogatepass")).decode(errors="replace")
        case bytes():
            return scramble(value)
        case bool():
            return not value
        case int():
            return chance.choice((value + 1, value - 1, -value, value * 256, str(value), float(value)))
        case list():
            return chance.sample(value, len(value))
    return chance.choice(_ODD)


def _places(root: list[Any]) -> list[_Place]:
    """Every place in the tree as (container, key)."""
    found: list[_Place] = []
    waiting: list[tuple[Any, int]] = [(root, 0)]
    while waiting:
        container, depth = waiting.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            found.append((container, key))
            if isinstance(container[key], dict | list) and depth < _DEPTH_MAX:
                waiting.append((container[key], depth + 1))
    return found
