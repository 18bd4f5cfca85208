"""The front desk: the same jobs, escrows and receipts over HTTP, for programs and people without Nostr.

It turns HTTP into what `Customer` does, and keeps nothing of its own but who calls and what they have here.
"""
