"""Reputation: what an agent keeps and publishes of its jobs, and what customers and readers make of it."""
