"""Money: mints, tokens, locks, the engine that moves coins, and the ledger (floor 3)."""

from wallet.errors import (
    Action,
    AlreadySpent,
    InsufficientFunds,
    InvalidKeyset,
    InvalidProof,
    InvalidRequest,
    InvalidSeed,
    InvalidToken,
    LimitExceeded,
    MintError,
    MintUnavailable,
    UnknownMint,
    WalletError,
    WrongLock,
)
from wallet.ledger import AuditReport
from wallet.locks import lock_condition, parse_lock
from wallet.mint import HttpTransport, MintTransport
from wallet.operations import Examined, HistoryEntry, Kind, Outcome, Plan, Quote, State
from wallet.payment_request import (
    PaymentPayload,
    PaymentRequest,
    Transport,
    encode_payload,
    encode_request,
    parse_payload,
    parse_request,
)
from wallet.proofs import SAT, P2PKLock, Proof, Token
from wallet.restore import Restored
from wallet.seed import Seed
from wallet.token import encode_token, parse_token
from wallet.wallet import Wallet

__all__ = [
    "SAT",
    "Action",
    "AlreadySpent",
    "AuditReport",
    "Examined",
    "HistoryEntry",
    "HttpTransport",
    "InsufficientFunds",
    "InvalidKeyset",
    "InvalidProof",
    "InvalidRequest",
    "InvalidSeed",
    "InvalidToken",
    "Kind",
    "LimitExceeded",
    "MintError",
    "MintTransport",
    "MintUnavailable",
    "Outcome",
    "P2PKLock",
    "PaymentPayload",
    "PaymentRequest",
    "Plan",
    "Proof",
    "Quote",
    "Restored",
    "Seed",
    "State",
    "Token",
    "Transport",
    "UnknownMint",
    "Wallet",
    "WalletError",
    "WrongLock",
    "encode_payload",
    "encode_request",
    "encode_token",
    "lock_condition",
    "parse_lock",
    "parse_payload",
    "parse_request",
    "parse_token",
]
