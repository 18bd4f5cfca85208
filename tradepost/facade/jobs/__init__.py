"""What callers ask for: jobs, their events, escrows and reviews."""
