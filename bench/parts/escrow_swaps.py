"""The two swaps of an escrow as ready-made requests for a bare client: coins into its lock, and out of it."""

import secrets
from collections.abc import Sequence

import orjson

from bench.parts.ecash import fresh_coins, random_scalar
from identity import SecretKey
from store import SystemClock
from wallet import HttpTransport, Lock, Proof
from wallet.crypto import blind, unblind
from wallet.locks import lock_secret
from wallet.selection import escrow_amounts, fee_amounts, split_amount
from wallet.witness import complete

COIN_SAT, PRICE_SAT, FEE_PPK = 32, 30, 100  # a coin is just enough to lock the price and the fees: no change
LOCK_SECONDS = 86_400
LOCKED = (*escrow_amounts(PRICE_SAT), *fee_amounts(escrow_amounts(PRICE_SAT), FEE_PPK))

_Made = list[tuple[int, str, bytes]]  # amount, secret and blinding factor of each output


class Swaps:
    """Requests of some jobs at one mint, and what became of their coins."""

    def __init__(self, mint: str, keyset_id: str, keys: dict[str, str]) -> None:
        """Use `at`."""
        self._mint = mint
        self._keyset_id = keyset_id
        self._keys = keys
        self._parties = [SecretKey.generate() for _ in range(3)]
        provider, customer, arbiter = (key.compressed_public_key for key in self._parties)
        locktime = SystemClock().now() + LOCK_SECONDS
        self._lock = Lock(provider, locktime, (customer,), pubkeys=(customer, arbiter), n_sigs=2)
        self._made: list[_Made] = []

    @classmethod
    async def at(cls, mint: str) -> "Swaps":
        """Learn the mint's keys."""
        transport = HttpTransport(mint)
        try:
            (keyset,) = (await transport.request("GET", "/v1/keys"))["keysets"]
        finally:
            await transport.close()
        return cls(mint, keyset["id"], keyset["keys"])

    async def locking(self, count: int) -> list[bytes]:
        """So many requests that lock a fresh coin for two of three parties."""
        coins = await fresh_coins(self._mint, count, COIN_SAT)
        self._made = [self._outputs(sorted(LOCKED), locked=True) for _ in coins]
        return [self._request(coin.proofs, made) for coin, made in zip(coins, self._made, strict=True)]

    def redeeming(self, answers: Sequence[bytes]) -> list[bytes]:
        """The requests that take these coins for the provider, with its signature and the customer's."""
        provider, customer, _ = self._parties
        requests = []
        for made, answer in zip(self._made, answers, strict=True):
            signatures = orjson.loads(answer)["signatures"]
            coins = [
                complete(
                    Proof(
                        amount, self._keyset_id, secret, unblind(signature["C_"], r, self._keys[str(amount)])
                    ),
                    self._lock,
                    (provider, customer),
                )
                for (amount, secret, r), signature in zip(made, signatures, strict=True)
            ]
            requests.append(self._request(coins, self._outputs(split_amount(PRICE_SAT), locked=False)))
        return requests

    def _outputs(self, amounts: Sequence[int], *, locked: bool) -> _Made:
        nonces = [secrets.token_hex(32) for _ in amounts]
        return [
            (amount, lock_secret(self._lock, nonce) if locked else nonce, random_scalar())
            for amount, nonce in zip(amounts, nonces, strict=True)
        ]

    def _request(self, inputs: Sequence[Proof], made: _Made) -> bytes:
        outputs = [
            {"amount": amount, "id": self._keyset_id, "B_": blind(secret, r)} for amount, secret, r in made
        ]
        return orjson.dumps({"inputs": [coin.to_mint() for coin in inputs], "outputs": outputs})
