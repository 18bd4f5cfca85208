"""Escrow under everything that can go wrong, again and again: `python -m soak`, docs/testing.md.

The three parties of an escrow run as they do in production, on a loop of virtual time, with randomness that a seed
decides. They die, fall silent, cheat; their mint and their relays fail and lie. Afterwards every sat is looked for.
"""
