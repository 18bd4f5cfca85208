"""Who calls: credentials, accounts, sessions, and how often."""
