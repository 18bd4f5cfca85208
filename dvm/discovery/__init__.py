"""Who does what, and how they are found."""
