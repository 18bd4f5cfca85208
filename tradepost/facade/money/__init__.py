"""What callers have here: custodial, in the wallet's own books."""
