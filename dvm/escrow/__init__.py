"""Money in escrow, as its three parties see it."""
