"""Check a receipt from an agent's log, offline, with nothing of Tradepost: `python verify_receipt.py FILE [NPUB]`.

Each check is a line: ok, FAILED, or not checked: ask a mint or a relay. NPUB, or its hex, is how you know the agent;
without it the file vouches for itself. Exit code 1: a check failed, 2: no receipt. The file: docs/receipts.md.
"""

import json
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from coincurve import PublicKeyXOnly


def unhex(text: str, size: int = 32) -> bytes:
    """So many bytes, from lowercase hex."""
    if len(text) != 2 * size or bytes.fromhex(text).hex() != text:
        raise ValueError(f"not {2 * size} lowercase hex digits: {text[:80]!r}")
    return bytes.fromhex(text)


def read_key(text: str) -> str:
    """A key in hex, given so or as an npub (NIP-19). No need to check its checksum: it is to be the log's."""
    if text.startswith("npub1"):
        bits = "".join(f"{'qpzry9x8gf2tvdw0s3jn54khce6mua7l'.index(letter):05b}" for letter in text[5:-6])
        text = f"{int(bits, 2) >> 4:0{len(bits) // 4 - 1}x}"
    return unhex(text).hex()


def is_signed(event: dict) -> bool:
    """NIP-01: the id is the hash of the event, and its author signed that (BIP-340)."""
    said = [0, *(event[name] for name in ("pubkey", "created_at", "kind", "tags", "content"))]
    message = sha256(json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()).digest()
    author, signature = PublicKeyXOnly(unhex(event["pubkey"])), unhex(event["sig"], 64)
    return message.hex() == event["id"] and author.verify(signature, message)


def tags(event: dict, name: str) -> list[list[str]]:
    """What each tag of that name says."""
    return [tag[1:] for tag in event["tags"] if tag[0] == name]


def climb(place: int, size: int, path: list[bytes], to_edge: bool) -> tuple[bytes, bytes]:
    """The roots over what is left of a place (`to_edge`: or ends there) and over all (RFC 9162, 2.1.3 and 2.1.4)."""
    if size == 1 or (to_edge and place == size - 1):
        [start] = path
        return start if to_edge else b"", start
    half, step = 1 << (size - 1).bit_length() - 1, path[-1]
    if place < half:
        left, whole = climb(place, half, path[:-1], to_edge)
        return left, sha256(b"\1" + whole + step).digest()
    left, whole = climb(place - half, size - half, path[:-1], to_edge)
    return sha256(b"\1" + step + left).digest() if left else step, sha256(b"\1" + step + whole).digest()


def check_file(file: dict, agent: str, now: float) -> Iterator[tuple[bool | None, str]]:
    """Yields whether each check passed (None: it cannot be made here), and what it is. A malformed part raises."""
    event, found = file["root"], {"key": [], "job": [], "review": []}
    [[log]], [[root]], [[size]], [[method]] = (tags(event, name) for name in ("log", "root", "size", "alg"))
    [[old_root, old_size]], [proof] = tags(event, "prev") or [["", "0"]], tags(event, "consistency") or [[]]
    name = {78: ["t", "tradepost:root"], 30078: ["d", "tradepost:root"]}[event["kind"]]
    good = is_signed(event) and name in event["tags"] and not tags(event, "expiration")
    good &= method == "rfc9162-sha256" and event["created_at"] <= now + 900
    yield good and file["format"] == "tradepost-receipt-1", f"the root over {size} leaves is signed and dated"
    size, root, before, path, keys = int(size), unhex(root), int(old_size), [*map(unhex, proof)], [log]
    if before and (before == size or before & (before - 1) == 0):
        path.insert(0, unhex(old_root))
    has_grown = 0 < before <= size and climb(before - 1, size, path, True) == (unhex(old_root), root)
    yield has_grown if before else not path, f"it grew out of the {before} leaves published before"
    for entry in file["leaves"]:
        leaf, place = json.loads(entry["leaf"]), entry["number"]
        path = [sha256(b"\0" + entry["leaf"].encode()).digest(), *map(unhex, entry["path"])]
        left, whole = climb(place, size, path, False)
        yield 0 <= place < size and whole == root, f"leaf {place} is under the root"
        found[leaf["type"]].append(leaf | {"place": place, "left": left.hex()})
    yield from check_keys(found["key"], keys, now)
    yield event["pubkey"] == keys[-1], f"the root is signed by the key that the log is with: {keys[-1][:16]}"
    yield agent in keys if agent else None, f"the log is that of the agent: {agent[:16] or 'say its npub'}"
    if file["review"]:
        yield from check_review(file["review"], found["job"], found["review"], keys)
    else:
        yield len(found["job"]) < 2 and not found["review"], "the file is of one job at most, unreviewed"
    yield None, "this is the newest root, and the only one of its size: ask a relay"


def check_keys(leaves: list[dict], keys: list[str], now: float) -> Iterator[tuple[bool | None, str]]:
    """Appends to `keys`, where the log's first one is, those that these leaves hand it on to."""
    named = ""
    for leaf in leaves:
        key, place, event = leaf["key"], leaf["place"], json.loads(leaf.get("rotation") or "null")
        if event is None:
            yield place == 0 and key == keys[0], "the log begins with its first key"
        else:
            names = ("t", "log", "from", "to", "size", "root", "next", "overlap")
            *said, overlap = (tags(event, name)[0][0] for name in names)
            told = ["tradepost:rotation", keys[0], keys[-1], key, str(place), leaf["left"], leaf["next"]]
            by_both, is_named = {"3600": True, "0": False}[overlap], named == sha256(unhex(key)).hexdigest()
            consent = json.loads(event["content"]) if by_both else event
            good = said == told and place > 0 and key not in keys and event["created_at"] <= now + 900
            good &= all(event[name] == consent[name] for name in ("kind", "created_at", "tags"))
            good &= event["pubkey"] == (keys[-1] if by_both else key) and consent["pubkey"] == key
            good &= (by_both or is_named) and event["kind"] == 78 and is_signed(event) and is_signed(consent)
            yield good, f"at leaf {place} it was {'handed on to' if by_both else 'recovered by'} {key[:16]}"
            yield is_named or None, "that its owner did so: the log had named that key (or ask a relay)"
            keys.append(key)
        named = leaf["next"]


def check_review(event: dict, jobs: list, answers: list, keys: list) -> Iterator[tuple[bool | None, str]]:
    """That the review is of the job in the log, and what it shows for it."""
    [job], [answer], [[agent, *_]], [[kind]] = jobs, answers or [{}], tags(event, "p"), tags(event, "k")
    e = {"result": job.get("result")} | {tag[2]: tag[0] for tag in tags(event, "e") if len(tag) > 2}
    yield is_signed(event) and event["kind"] == 1985, f"the review is signed by {event['pubkey'][:16]}"
    yield agent in keys and event["pubkey"] not in keys, "it is about this agent, and not by it"
    told = [job["request"], job["customer"], str(job["kind"]), job.get("result")]
    yield told == [e["request"], event["pubkey"], kind, e["result"]], "it is by the customer of the log's job"
    said = [answer.get("review"), answer.get("request")] == [event["id"], e["request"]]
    yield said if answer else None, "the log answers it (in the file, or ask a relay)"
    match tags(event, "evidence"):
        case [["lock"]]:
            coins, key = tags(event, "coin"), PublicKeyXOnly(unhex(job["lock"][2:]))
            secrets = [json.loads(coin[2]) for coin in coins]  # NUT-11, NUT-14: the first key is the agent's
            locks = {said["data"] if how == "P2PK" else tags(said, "pubkeys")[0][0] for how, said in secrets}
            claims = [sha256(b"tradepost/lock/1" + unhex(it) + unhex(job["request"])).digest() for it in keys]
            good = locks == {job["lock"]} and any(key.verify(unhex(job["lock_sig"], 64), it) for it in claims)
            yield good, "its coins are locked to the key that the log names, for this agent"
            shown = [(sha256(coin[2].encode()).digest(), json.loads(coin[7])) for coin in coins if coin[7]]
            ok = all(any(key.verify(bytes.fromhex(one), it) for one in by["signatures"]) for it, by in shown)
            yield ok, f"that key signed for the coins whose spending is shown: {len(shown)} of {len(coins)}"
            paid = {coin[2]: 1000 * int(coin[0]) for coin in coins}  # by secret: no coin counts twice
            yield sum(paid.values()) >= job["amount_msat"], "the coins come to what the agent got for the job"
            yield None, f"the coins are real, and spent: ask {tags(event, 'u')[0][0]}"
        case [["preimage"]]:
            [[preimage]] = tags(event, "preimage")
            yield sha256(unhex(preimage)).hexdigest() == job.get("hash"), "the log's invoice was paid"
        case _:
            yield None, "anything was paid: the review shows nothing for it"


if __name__ == "__main__":
    try:
        raw, agent = Path(sys.argv[1]).read_bytes(), read_key(sys.argv[2]) if sys.argv[2:] else ""
        for passed, what in (checks := list(check_file(json.loads(raw.decode()), agent, time.time()))):
            print({True: "ok", False: "FAILED", None: "not checked:"}[passed], what)  # noqa: T201 - for people
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        print(f"FAILED this is no receipt: {error!r}")  # noqa: T201 - for people
        sys.exit(2)
    sys.exit(any(passed is False for passed, _ in checks))
