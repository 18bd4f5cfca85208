"""A Cashu mint in memory: real blind signatures, fees, locks and quotes, and switches for everything that goes wrong.

    mint = MemoryMint()
    wallet = Wallet.open(db, seed, clock=clock, mints=[mint.url], transport=mint.transport)
    quote = await wallet.mint_quote(mint.url, 100)
    mint.pay(quote.bolt11)
    await wallet.claim(quote.id)

No Lightning moves: `pay` says that an invoice was paid, and the mint pays any invoice at once unless `melts` says else.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any

import bolt11 as bolt11_codec
import coincurve

from identity.keys import verify_signature
from store import Clock, SystemClock
from wallet.crypto import blind, make_dleq, proof_y, sign_blinded, unblind, verify_coin
from wallet.errors import MintError, MintUnavailable, WalletError
from wallet.keysets import Keyset, input_fee, keyset_id_v1, keyset_id_v2
from wallet.locks import parse_lock
from wallet.mint import MintTransport
from wallet.proofs import Dleq, Proof, parse_proof
from wallet.selection import split_amount
from wallet.witness import is_unlocked

_AMOUNTS = [1 << bit for bit in range(24)]


class Melts(StrEnum):
    """What becomes of a payment: paid at once, in flight until `finish_melt`, or failed."""

    PAID = "paid"
    PENDING = "pending"
    FAILED = "failed"


@dataclass
class _Quote:
    id: str
    bolt11: str
    amount: int
    state: str = "UNPAID"
    pubkey: str | None = None
    expiry: int | None = None
    fee_reserve: int = 0
    inputs: list[Proof] = field(default_factory=list)
    blanks: list[dict[str, Any]] = field(default_factory=list)
    change: list[dict[str, Any]] = field(default_factory=list)
    preimage: str | None = field(default=None, repr=False)


class MemoryMint:
    """One mint at `url`; `transport` is what `Wallet.open` takes. Everything is public to the test that owns it.

    Switches: `down` (refuses connections), `rubbish` (answers nonsense, having done nothing), `stall` (an event that
    every request waits for), `wrong_dleq` (signs with proofs that do not hold), `pays_itself` (calls
    every invoice paid, as play mints do), `melts`, `lightning_fee_sat`,
    `fee_reserve_sat` (None: 1 %), `quote_seconds` (expiry of new quotes), `nuts` (what it claims to support); and for
    one request at a time `lose_request`, `lose_answer`, `refuse`. `asked` counts the requests by path.
    """

    def __init__(
        self,
        url: str = "https://mint.test",
        *,
        input_fee_ppk: int = 100,
        clock: Clock | None = None,
        keyset_version: int = 2,
    ) -> None:
        self.url = url
        self.clock = clock or SystemClock()
        self.down = False
        self.rubbish = False
        self.stall: asyncio.Event | None = None
        self.wrong_dleq = False
        self.pays_itself = False
        self.melts = Melts.PAID
        self.lightning_fee_sat = 0
        self.fee_reserve_sat: int | None = None
        self.quote_seconds: int | None = None
        self.nuts = {str(nut): {"supported": True} for nut in (7, 8, 9, 10, 11, 12, 14, 20)}
        self.asked: Counter[str] = Counter()
        self.fees_sat = 0
        self.keysets: dict[str, Keyset] = {}
        self.spent: dict[str, Proof] = {}
        self.signed: dict[str, dict[str, Any]] = {}
        self._keyset_version = keyset_version
        self._secrets: dict[str, dict[int, bytes]] = {}
        self._pending: set[str] = set()
        self._preimages: dict[str, str] = {}
        self._mint_quotes: dict[str, _Quote] = {}
        self._melt_quotes: dict[str, _Quote] = {}
        self._numbers = count(1)
        self._next_faults: list[tuple[str, WalletError | None, WalletError | None]] = []
        self.rotate_keyset(input_fee_ppk)

    def transport(self, url: str) -> MintTransport:
        """The factory that `Wallet.open` wants."""
        if url != self.url:
            raise ValueError(f"this mint is {self.url}, not {url}")
        return _MemoryTransport(self)

    def rotate_keyset(self, input_fee_ppk: int = 100, final_expiry: int | None = None) -> str:
        """Retire every keyset and make a new active one; returns its id."""
        self.keysets = {keyset_id: replace(k, active=False) for keyset_id, k in self.keysets.items()}
        number = next(self._numbers)
        secrets = {a: hashlib.sha256(f"{self.url}/{number}/{a}".encode()).digest() for a in _AMOUNTS}
        keys = {
            a: coincurve.PublicKey.from_valid_secret(secret).format().hex() for a, secret in secrets.items()
        }
        if self._keyset_version == 1:
            keyset_id = keyset_id_v1(keys)
        else:
            keyset_id = keyset_id_v2(keys, "sat", input_fee_ppk, final_expiry)
        self.keysets[keyset_id] = Keyset(keyset_id, "sat", True, input_fee_ppk, final_expiry, keys)
        self._secrets[keyset_id] = secrets
        return keyset_id

    def invoice(self, amount_sat: int) -> str:
        """An invoice of somebody else, to be paid by a melt."""
        number = next(self._numbers)
        preimage = hashlib.sha256(f"{self.url}/{number}".encode()).digest()
        payment_hash = hashlib.sha256(preimage).hexdigest()
        self._preimages[payment_hash] = preimage.hex()
        tags = bolt11_codec.Tags()
        tags.add(bolt11_codec.TagChar.payment_hash, payment_hash)
        tags.add(bolt11_codec.TagChar.payment_secret, hashlib.sha256(f"secret {number}".encode()).hexdigest())
        tags.add(bolt11_codec.TagChar.description, "MemoryMint")
        amount = bolt11_codec.MilliSatoshi(1000 * amount_sat)
        invoice = bolt11_codec.Bolt11(currency="bc", amount_msat=amount, date=self.clock.now(), tags=tags)
        return bolt11_codec.encode(invoice, "11" * 32)

    def pay(self, bolt11: str) -> None:
        """Say that one of this mint's own invoices was paid."""
        for quote in self._mint_quotes.values():
            if quote.bolt11 == bolt11 and quote.state == "UNPAID":
                quote.state = "PAID"

    def finish_melt(self, *, paid: bool) -> None:
        """End every payment in flight."""
        for quote in self._melt_quotes.values():
            if quote.state == "PENDING":
                self._end_melt(quote, paid=paid)

    def lose_request(self, path: str) -> None:
        """The next request to a path that begins so never arrives."""
        self._fault(path, before=_unavailable("the request was lost"))

    def lose_answer(self, path: str) -> None:
        """The next request to a path that begins so is done, and its answer lost."""
        self._fault(path, after=_unavailable("the answer was lost"))

    def refuse(self, path: str, *, code: int = 0, detail: str = "no") -> None:
        """The next request to a path that begins so is refused, and nothing done."""
        self._fault(path, before=MintError(mint_code=code, detail=detail))

    def sign_again(self) -> None:
        """Replace every signature by an honest one, as a mint does that repaired its `wrong_dleq`."""
        outputs = [{"B_": b, "id": s["id"], "amount": s["amount"]} for b, s in self.signed.items()]
        self._sign(outputs)

    def coin(self, amount_sat: int, secret: str) -> Proof:
        """A good coin over any text, which a blind mint signs unseen: for locks that no wallet of ours writes."""
        keyset = next(keyset for keyset in self.keysets.values() if keyset.active)
        r = hashlib.sha256(secret.encode()).digest()
        blinded = blind(secret, r)
        (signature,) = self._sign([{"B_": blinded, "id": keyset.id, "amount": amount_sat}])
        dleq = Dleq(signature["dleq"]["e"], signature["dleq"]["s"], r.hex())
        return Proof(amount_sat, keyset.id, secret, unblind(signature["C_"], r, keyset.key(amount_sat)), dleq)

    @property
    def outstanding_sat(self) -> int:
        """Ecash that this mint signed and that is not spent."""
        signed: int = sum(signature["amount"] for signature in self.signed.values())
        return signed - sum(proof.amount for proof in self.spent.values())

    def is_spent(self, proof: Proof) -> bool:
        """Whether somebody spent this coin."""
        return proof_y(proof.secret) in self.spent

    # --- the doors ---------------------------------------------------------------------------------------------------

    async def request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """One request, with the faults that are switched on."""
        await asyncio.sleep(0)
        if self.stall is not None:
            await self.stall.wait()
        self.asked[path] += 1
        if self.down:
            raise _unavailable("connection refused")
        if self.rubbish:
            return {"signatures": "<html>", "keysets": 7}
        before, after = self._faults_of(path)
        if before is not None:
            raise before
        answer = self._answer(method, path, body or {})
        if after is not None:
            raise after
        return answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        match method, path.strip("/").split("/")[1:]:
            case "GET", ["info"]:
                return {
                    "name": "MemoryMint",
                    "version": "MemoryMint/1",
                    "time": self.clock.now(),
                    "nuts": self.nuts,
                }
            case "GET", ["keysets"]:
                return {"keysets": [_keyset(k) for k in self.keysets.values()]}
            case "GET", ["keys", keyset_id]:
                return {"keysets": [_keyset(self._keyset(keyset_id), keys=True)]}
            case "POST", ["swap"]:
                return {"signatures": self._swap(body["inputs"], body["outputs"])}
            case "POST", ["checkstate"]:
                return {"states": [self._state(y) for y in body["Ys"]]}
            case "POST", ["restore"]:
                known = [output for output in body["outputs"] if output["B_"] in self.signed]
                return {"outputs": known, "signatures": [self.signed[output["B_"]] for output in known]}
            case "POST", ["mint", "quote", "bolt11"]:
                quote = self._new_quote(self._mint_quotes, self.invoice(body["amount"]), body["amount"])
                quote.pubkey = body.get("pubkey")
                if self.quote_seconds is not None:
                    quote.expiry = self.clock.now() + self.quote_seconds
                return _mint_quote(quote)
            case "GET", ["mint", "quote", "bolt11", quote_id]:
                if self.pays_itself:
                    self.pay(self._mint_quotes[quote_id].bolt11)
                return _mint_quote(self._mint_quotes[quote_id])
            case "POST", ["mint", "bolt11"]:
                return {"signatures": self._mint(body["quote"], body["outputs"], body.get("signature"))}
            case "POST", ["melt", "quote", "bolt11"]:
                amount = int(bolt11_codec.decode(body["request"]).amount_msat or 0) // 1000
                quote = self._new_quote(self._melt_quotes, body["request"], amount)
                quote.fee_reserve = (
                    max(2, amount // 100) if self.fee_reserve_sat is None else self.fee_reserve_sat
                )
                return _melt_quote(quote)
            case "GET", ["melt", "quote", "bolt11", quote_id]:
                return _melt_quote(self._melt_quotes[quote_id])
            case "POST", ["melt", "bolt11"]:
                return self._melt(body["quote"], body["inputs"], body.get("outputs") or [])
        raise MintError(mint_code=0, detail="no such endpoint")

    # --- what a mint does --------------------------------------------------------------------------------------------

    def _swap(self, raw_inputs: list[Any], outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        inputs = self._spendable(raw_inputs)
        fee = input_fee(inputs, self.keysets)
        if sum(p.amount for p in inputs) - fee != sum(o["amount"] for o in outputs):
            raise MintError(mint_code=11005, detail="the transaction is not balanced")
        self._check_outputs(outputs)
        self._spend(inputs, fee)
        return self._sign(outputs)

    def _mint(
        self, quote_id: str, outputs: list[dict[str, Any]], signature: str | None
    ) -> list[dict[str, Any]]:
        quote = self._mint_quotes[quote_id]
        if quote.state != "PAID":
            issued = quote.state == "ISSUED"
            raise MintError(mint_code=20002 if issued else 20001, detail=f"the quote is {quote.state}")
        if quote.pubkey is not None:
            message = quote_id + "".join(output["B_"] for output in outputs)
            digest = hashlib.sha256(message.encode()).digest()
            if not verify_signature(quote.pubkey[2:], digest, bytes.fromhex(signature or "")):
                raise MintError(mint_code=20008, detail="the signature is invalid")
        if sum(output["amount"] for output in outputs) != quote.amount:
            raise MintError(mint_code=11005, detail="the outputs are not the quote's amount")
        self._check_outputs(outputs)
        quote.state = "ISSUED"
        return self._sign(outputs)

    def _melt(self, quote_id: str, raw_inputs: list[Any], blanks: list[dict[str, Any]]) -> dict[str, Any]:
        quote = self._melt_quotes[quote_id]
        if quote.state != "UNPAID":
            raise MintError(mint_code=20005, detail=f"the quote is {quote.state}")
        inputs = self._spendable(raw_inputs)
        needed = quote.amount + quote.fee_reserve + input_fee(inputs, self.keysets)
        if sum(p.amount for p in inputs) < needed:
            raise MintError(mint_code=11005, detail="the inputs do not reach")
        if blanks:
            self._check_outputs(blanks)
        quote.state, quote.inputs, quote.blanks = "PENDING", inputs, blanks
        self._pending |= {proof_y(proof.secret) for proof in inputs}
        if self.melts is not Melts.PENDING:
            self._end_melt(quote, paid=self.melts is Melts.PAID)
        if self.melts is Melts.FAILED:
            raise MintError(mint_code=20004, detail="the Lightning payment failed")
        return _melt_quote(quote)

    def _end_melt(self, quote: _Quote, *, paid: bool) -> None:
        self._pending -= {proof_y(proof.secret) for proof in quote.inputs}
        quote.state = "PAID" if paid else "UNPAID"
        if not paid:
            return
        quote.preimage = self._preimages.get(bolt11_codec.decode(quote.bolt11).payment_hash)
        fee = input_fee(quote.inputs, self.keysets)
        total = sum(proof.amount for proof in quote.inputs)
        change = split_amount(total - fee - quote.amount - self.lightning_fee_sat)
        pairs = zip(quote.blanks, sorted(change, reverse=True), strict=False)
        quote.change = self._sign([blank | {"amount": amount} for blank, amount in pairs])
        self._spend(quote.inputs, fee)
        self.pay(quote.bolt11)

    def _spendable(self, raw: Iterable[Any]) -> list[Proof]:
        inputs = [parse_proof(coin) for coin in raw]
        ys = [proof_y(proof.secret) for proof in inputs]
        if len(set(ys)) != len(ys):
            raise MintError(mint_code=11007, detail="duplicate inputs")
        for y, proof in zip(ys, inputs, strict=True):
            secret = self._secrets.get(proof.id, {}).get(proof.amount)
            if secret is None or not verify_coin(proof.secret, proof.C, secret):
                raise MintError(mint_code=10001, detail="a proof is not ours")
            if y in self.spent:
                raise MintError(mint_code=11001, detail="a proof is already spent")
            if y in self._pending:
                raise MintError(mint_code=11002, detail="a proof is pending")
            self._check_lock(proof)
        return inputs

    def _check_lock(self, proof: Proof) -> None:
        try:
            lock = parse_lock(proof.secret)
        except WalletError as error:
            raise MintError(mint_code=10001, detail=str(error)) from None
        if lock and not is_unlocked(lock, proof.secret, proof.witness, self.clock.now()):
            raise MintError(mint_code=10001, detail="the spending condition is not met")

    def _check_outputs(self, outputs: list[dict[str, Any]]) -> None:
        messages = [output["B_"] for output in outputs]
        if not messages or len(set(messages)) != len(messages):
            raise MintError(mint_code=11008, detail="no outputs, or one twice")
        if any(message in self.signed for message in messages):
            raise MintError(mint_code=11003, detail="an output was signed before")
        if not all(self._keyset(output["id"]).active for output in outputs):
            raise MintError(mint_code=12002, detail="the keyset is inactive")

    def _spend(self, inputs: list[Proof], fee: int) -> None:
        self.spent |= {proof_y(proof.secret): proof for proof in inputs}
        self.fees_sat += fee

    def _sign(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        signatures = []
        for output in outputs:
            secret = self._secrets[output["id"]][output["amount"]]
            blind_signature = sign_blinded(output["B_"], secret)
            dleq = make_dleq(output["B_"], blind_signature, b"\x07" * 32 if self.wrong_dleq else secret)
            signature = {
                "id": output["id"], "amount": output["amount"], "C_": blind_signature,
                "dleq": {"e": dleq.e, "s": dleq.s},
            }  # fmt: skip
            self.signed[output["B_"]] = signature
            signatures.append(signature)
        return signatures

    def _state(self, y: str) -> dict[str, Any]:
        if y in self.spent:
            return {"Y": y, "state": "SPENT", "witness": self.spent[y].witness}
        return {"Y": y, "state": "PENDING" if y in self._pending else "UNSPENT", "witness": None}

    def _keyset(self, keyset_id: str) -> Keyset:
        if keyset_id not in self.keysets:
            raise MintError(mint_code=12001, detail="the keyset is not known")
        return self.keysets[keyset_id]

    def _new_quote(self, quotes: dict[str, _Quote], bolt11: str, amount: int) -> _Quote:
        quote = _Quote(f"quote-{next(self._numbers)}", bolt11, amount)
        quotes[quote.id] = quote
        return quote

    def _fault(
        self, path: str, *, before: WalletError | None = None, after: WalletError | None = None
    ) -> None:
        self._next_faults.append((path, before, after))

    def _faults_of(self, path: str) -> tuple[WalletError | None, WalletError | None]:
        for index, (start, before, after) in enumerate(self._next_faults):
            if path.startswith(start):
                del self._next_faults[index]
                return before, after
        return None, None


class _MemoryTransport:
    def __init__(self, mint: MemoryMint) -> None:
        self._mint = mint

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return await self._mint.request(method, path, body)

    async def close(self) -> None:
        """Nothing to close."""


def _unavailable(why: str) -> MintUnavailable:
    return MintUnavailable(f"MemoryMint: {why}")


def _keyset(keyset: Keyset, *, keys: bool = False) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "id": keyset.id, "unit": keyset.unit, "active": keyset.active, "input_fee_ppk": keyset.input_fee_ppk,
        "final_expiry": keyset.final_expiry,
    }  # fmt: skip
    if keys:
        raw["keys"] = {str(amount): key for amount, key in keyset.keys.items()}
    return raw


def _mint_quote(quote: _Quote) -> dict[str, Any]:
    return {
        "quote": quote.id, "request": quote.bolt11, "amount": quote.amount, "unit": "sat", "state": quote.state,
        "expiry": quote.expiry,
    }  # fmt: skip


def _melt_quote(quote: _Quote) -> dict[str, Any]:
    return {
        "quote": quote.id, "request": quote.bolt11, "amount": quote.amount, "unit": "sat",
        "fee_reserve": quote.fee_reserve, "state": quote.state, "expiry": None, "change": quote.change,
        "payment_preimage": quote.preimage,
    }  # fmt: skip
