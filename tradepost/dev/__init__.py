"""A market on this machine to develop on: `tradepost dev`."""
