"""Whom callers can hire, and what is known of them."""
