"""Talking to a mint: one transport (HTTP here, in memory in `tradepost.testing`), one client with typed answers.

Nothing a mint says is trusted in form: what is not exactly an answer raises `MintUnavailable`, because then nobody
knows what happened. Only a proper refusal raises `MintError`. Neither ever carries a secret.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
import orjson

from wallet.errors import InvalidKeyset, MintError, MintUnavailable, UnknownMint
from wallet.keysets import parse_keys
from wallet.proofs import SAT, Dleq, Proof
from wallet.together import Together

ANSWER_BYTES_MAX: Final = 2**20
REQUEST_SECONDS_MAX: Final = 30.0
REQUESTS_AT_ONCE_MAX: Final = 4  # nutshell slows with more, and in the end refuses swaps for its own database
MELT_SECONDS_MAX: Final = 180.0  # a mint pays before it answers (NUT-05)
BATCH_MAX: Final = 100  # coins in one NUT-07 or NUT-09 request
_LIKE_A_SECRET: Final = re.compile(r"[\w+/=-]{32,}")
_QUOTE_ID: Final = re.compile(r"[\w.~=-]{1,200}", re.ASCII)
_Number = Annotated[
    int, msgspec.Meta(ge=0, le=2**53)
]  # no time and no sum is larger; nor would the database hold it
_UNCLEAR_STATUS: Final = frozenset({408, 421, 425, 429})


def normalise_mint_url(url: str) -> str:
    """The one spelling of a mint's URL: lowercase host, no default port, no trailing slash. Raises `UnknownMint`."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UnknownMint("the mint's URL is malformed") from None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if (
        scheme not in {"http", "https"}
        or not host
        or parts.query
        or parts.fragment
        or parts.username is not None
        or not url.isprintable()
        or set(url) & {" ", "\\"}
    ):
        raise UnknownMint("a mint's URL is http(s)://host[:port][/path]")
    if ":" in host:
        host = f"[{host}]"
    if port is not None and port != {"http": 80, "https": 443}[scheme]:
        host = f"{host}:{port}"
    return f"{scheme}://{host}{parts.path.rstrip('/')}"


class MintTransport(Protocol):
    """Carries one request to one mint. Twin for tests: `tradepost.testing.MemoryMint`."""

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask `path` (from `/v1/` on) and return the JSON answer.

        Raises `MintError` for a refusal in NUT-00's form, `MintUnavailable` for everything else that is no answer.
        """
        ...

    async def close(self) -> None:
        """Give up connections; the transport is not used afterwards."""
        ...


class HttpTransport:
    """The real one: one aiohttp session for one mint, no redirects, limits on size, time and requests at once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """See `MintTransport.request`."""
        if (
            path == "/v1/melt/bolt11"
        ):  # which takes as long as a payment, and nobody waits for its turn behind it
            return await self._send(method, path, body, MELT_SECONDS_MAX)
        async with self._turns:
            return await self._send(method, path, body, REQUEST_SECONDS_MAX)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=None if body is None else orjson.dumps(body),
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as response:
                raw = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise MintUnavailable(
                f"no answer from {self._url}: {_reason(error, seconds)}; try again later"
            ) from None
        return _judge(self._url, response.status, raw)

    async def close(self) -> None:
        """See `MintTransport.close`."""
        if self._session is not None:
            await self._session.close()


def _reason(error: Exception, seconds: float) -> str:
    """Why there is no answer, for people: what the system says, else what aiohttp calls it."""
    if isinstance(error, TimeoutError):
        return f"{seconds:g} s went by"
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_chunked(2**16):
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise MintUnavailable(f"an answer of the mint is larger than {ANSWER_BYTES_MAX} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _judge(url: str, status: int, raw: bytes) -> Any:
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise MintUnavailable(f"{url} answered {status} without JSON; try again later") from None
    if status == 200:
        return answer
    if (
        400 <= status < 500
        and status not in _UNCLEAR_STATUS
        and isinstance(answer, dict)
        and "detail" in answer
    ):
        code, detail = answer.get("code"), answer["detail"]
        raise MintError(
            mint_code=code if isinstance(code, int) else 0,
            # Mints echo what they were sent, and errors are shown and logged.
            detail=_LIKE_A_SECRET.sub("…", detail) if isinstance(detail, str) else "no reason given",
        )
    raise MintUnavailable(f"{url} answered {status}; try again later")


class CoinState(StrEnum):
    """What a mint knows of a coin (NUT-07). UNSPENT also answers for coins that never existed."""

    UNSPENT = "UNSPENT"
    PENDING = "PENDING"
    SPENT = "SPENT"


class MintQuoteState(StrEnum):
    """NUT-04. PENDING is nutshell's, while it signs."""

    UNPAID = "UNPAID"
    PAID = "PAID"
    PENDING = "PENDING"
    ISSUED = "ISSUED"


class MeltQuoteState(StrEnum):
    """NUT-05."""

    UNPAID = "UNPAID"
    PENDING = "PENDING"
    PAID = "PAID"


class BlindedMessage(msgspec.Struct, frozen=True):
    """What a mint signs (NUT-00)."""

    amount: int
    id: str
    B_: str


class DleqAnswer(msgspec.Struct, frozen=True):
    """A mint's proof on its blind signature (NUT-12)."""

    e: str
    s: str


class BlindSignature(msgspec.Struct, frozen=True):
    """A mint's signature on a blinded message (NUT-00)."""

    id: str
    amount: _Number
    C_: str
    dleq: DleqAnswer | None = None

    @property
    def proof_of_key(self) -> Dleq | None:
        """The DLEQ as our own type."""
        return None if self.dleq is None else Dleq(e=self.dleq.e, s=self.dleq.s)


class MintInfo(msgspec.Struct, frozen=True):
    """What we read of NUT-06. `time` is the mint's clock. An answer without `nuts` is rubbish, not a poor mint."""

    nuts: dict[str, Any]
    name: str | None = None
    version: str | None = None
    time: _Number | None = None

    def supports(self, nut: int) -> bool:
        """Whether the mint claims one of the optional NUTs that say `supported`."""
        setting = self.nuts.get(str(nut))
        return isinstance(setting, dict) and setting.get("supported") is True


class KeysetAnswer(msgspec.Struct, frozen=True):
    """One entry of NUT-02's list."""

    id: str
    unit: str
    active: bool
    input_fee_ppk: _Number | None = None
    final_expiry: _Number | None = None


class MintQuoteAnswer(msgspec.Struct, frozen=True):
    """NUT-04 and NUT-23. `amount` is missing in old mints' answers."""

    quote: str
    request: str
    state: MintQuoteState
    amount: _Number | None = None
    expiry: _Number | None = None


class MeltQuoteAnswer(msgspec.Struct, frozen=True):
    """NUT-05, NUT-08 and NUT-23: a quote, its state, or the answer to a payment."""

    quote: str
    amount: _Number
    fee_reserve: _Number
    state: MeltQuoteState
    change: list[BlindSignature] | None = None
    payment_preimage: str | None = None

    def __repr__(self) -> str:
        return f"MeltQuoteAnswer({self.quote!r}, {self.state.value})"  # a preimage is nobody's business


class ProofStateAnswer(msgspec.Struct, frozen=True):
    """NUT-07."""

    Y: str
    state: CoinState
    witness: str | None = None


class _Keysets(msgspec.Struct):
    keysets: list[KeysetAnswer]


class _Keys(msgspec.Struct):
    keysets: list[dict[str, Any]]


class _Signatures(msgspec.Struct):
    signatures: list[BlindSignature]


class _States(msgspec.Struct):
    states: list[ProofStateAnswer]


class _Echo(msgspec.Struct):
    B_: str


class _Restored(msgspec.Struct):
    outputs: list[_Echo]
    signatures: list[BlindSignature]


_T = TypeVar("_T")
_Q = TypeVar("_Q", MintQuoteAnswer, MeltQuoteAnswer)


class MintClient:
    """The calls of one mint that we use, in sat and by bolt11. All raise `MintError` and `MintUnavailable`."""

    def __init__(self, url: str, transport: MintTransport) -> None:
        """`url` is for messages; the transport knows where it goes."""
        self.url = url
        self._transport = transport
        self._states = Together(self._check_state)

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()

    async def info(self) -> MintInfo:
        """NUT-06."""
        return await self._ask("GET", "/v1/info", None, MintInfo)

    async def keysets(self) -> list[KeysetAnswer]:
        """NUT-02: all keysets, without their keys."""
        return (await self._ask("GET", "/v1/keysets", None, _Keysets)).keysets

    async def keys(self, keyset_id: str) -> dict[int, str]:
        """NUT-01: the keys of one keyset, checked in form."""
        answer = await self._ask("GET", f"/v1/keys/{keyset_id}", None, _Keys)
        for keyset in answer.keysets:
            if keyset.get("id") == keyset_id:
                try:
                    return parse_keys(keyset.get("keys"))
                except InvalidKeyset as error:
                    raise self._rubbish("/v1/keys", str(error)) from None
        raise self._rubbish("/v1/keys", "another keyset than asked for")

    async def mint_quote(self, amount_sat: int, pubkey: str) -> MintQuoteAnswer:
        """NUT-04 with a NUT-20 key: an invoice over `amount_sat`."""
        body = {"amount": amount_sat, "unit": SAT, "pubkey": pubkey}
        quote = await self._ask("POST", "/v1/mint/quote/bolt11", body, MintQuoteAnswer)
        if quote.amount not in (None, amount_sat):
            raise self._rubbish("/v1/mint/quote", "another amount than asked for")
        return self._same_quote(quote.quote, quote)

    async def mint_quote_state(self, quote_id: str) -> MintQuoteAnswer:
        """NUT-04: where a quote stands."""
        answer = await self._ask("GET", f"/v1/mint/quote/bolt11/{quote_id}", None, MintQuoteAnswer)
        return self._same_quote(quote_id, answer)

    async def mint(
        self, quote_id: str, outputs: Sequence[BlindedMessage], signature: str
    ) -> list[BlindSignature]:
        """NUT-04: sign the outputs of a paid quote; `signature` by the quote's key (NUT-20)."""
        body = {"quote": quote_id, "outputs": _plain(outputs), "signature": signature}
        answer = await self._ask("POST", "/v1/mint/bolt11", body, _Signatures)
        return self._one_each(outputs, answer.signatures, "/v1/mint")

    async def melt_quote(self, bolt11: str) -> MeltQuoteAnswer:
        """NUT-05: what paying an invoice costs."""
        body = {"request": bolt11, "unit": SAT}
        quote = await self._ask("POST", "/v1/melt/quote/bolt11", body, MeltQuoteAnswer)
        if quote.amount == 0:
            raise self._rubbish("/v1/melt/quote", "an amount of zero")
        return self._same_quote(quote.quote, quote)

    async def melt_quote_state(self, quote_id: str) -> MeltQuoteAnswer:
        """NUT-05: where a payment stands."""
        answer = await self._ask("GET", f"/v1/melt/quote/bolt11/{quote_id}", None, MeltQuoteAnswer)
        return self._same_quote(quote_id, answer)

    async def melt(
        self, quote_id: str, inputs: Sequence[Proof], blanks: Sequence[BlindedMessage]
    ) -> MeltQuoteAnswer:
        """NUT-05 and NUT-08: pay, with blank outputs for what is overpaid. Takes as long as the payment."""
        body: dict[str, Any] = {"quote": quote_id, "inputs": [proof.to_mint() for proof in inputs]}
        if blanks:
            body["outputs"] = _plain(blanks)
        return self._same_quote(quote_id, await self._ask("POST", "/v1/melt/bolt11", body, MeltQuoteAnswer))

    async def swap(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> list[BlindSignature]:
        """NUT-03: one signature for each output, in order."""
        body = {"inputs": [proof.to_mint() for proof in inputs], "outputs": _plain(outputs)}
        answer = await self._ask("POST", "/v1/swap", body, _Signatures)
        return self._one_each(outputs, answer.signatures, "/v1/swap")

    async def check_state(self, ys: Sequence[str]) -> dict[str, ProofStateAnswer]:
        """NUT-07: the state of every coin asked for, by Y. Callers at the same time share a question."""
        return await self._states(ys)

    async def _check_state(self, ys: Sequence[str]) -> dict[str, ProofStateAnswer]:
        found: dict[str, ProofStateAnswer] = {}
        for batch in _batches(ys):
            answer = await self._ask("POST", "/v1/checkstate", {"Ys": list(batch)}, _States)
            found |= {state.Y: state for state in answer.states}
        if found.keys() != set(ys):
            raise self._rubbish("/v1/checkstate", "other coins than asked for")
        return found

    async def restore(self, outputs: Sequence[BlindedMessage]) -> dict[str, BlindSignature]:
        """NUT-09: the signatures on those of `outputs` that the mint ever signed, by B_."""
        asked = {output.B_ for output in outputs}
        found: dict[str, BlindSignature] = {}
        for batch in _batches(outputs):
            answer = await self._ask("POST", "/v1/restore", {"outputs": _plain(batch)}, _Restored)
            if len(answer.outputs) != len(answer.signatures):
                raise self._rubbish("/v1/restore", "outputs and signatures do not pair")
            for echo, signature in zip(answer.outputs, answer.signatures, strict=True):
                found[echo.B_] = signature
        if not found.keys() <= asked:
            raise self._rubbish("/v1/restore", "other outputs than asked for")
        return found

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, shape: type[_T]) -> _T:
        answer = await self._transport.request(method, path, body)
        try:
            return msgspec.convert(answer, shape)
        except msgspec.ValidationError as error:  # names the place and the type, not the value
            raise self._rubbish(path, str(error)) from None

    def _one_each(
        self, outputs: Sequence[BlindedMessage], signatures: list[BlindSignature], path: str
    ) -> list[BlindSignature]:
        if len(outputs) != len(signatures):
            raise self._rubbish(path, f"{len(signatures)} signatures on {len(outputs)} outputs")
        return signatures

    def _same_quote(self, quote_id: str, answer: _Q) -> _Q:
        """The id goes into paths, so it must look like one."""
        if answer.quote != quote_id or not _QUOTE_ID.fullmatch(quote_id):
            raise self._rubbish("/v1/quote", "another quote than asked for, or not a quote's id")
        return answer

    def _rubbish(self, path: str, seen: str) -> MintUnavailable:
        endpoint = "/".join(path.split("/")[:4])  # without a quote's id, which is as good as money
        return MintUnavailable(f"{self.url}{endpoint} answered rubbish ({seen[:200]}); try again later")


def _plain(outputs: Sequence[BlindedMessage]) -> list[dict[str, Any]]:
    return [{"amount": output.amount, "id": output.id, "B_": output.B_} for output in outputs]


def _batches(items: Sequence[_T]) -> list[Sequence[_T]]:
    return [items[start : start + BATCH_MAX] for start in range(0, len(items), BATCH_MAX)]
