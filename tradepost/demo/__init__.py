"""The demonstration: `make demo`, `tradepost demo`."""
