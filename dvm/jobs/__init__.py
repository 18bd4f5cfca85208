"""What an agent does for customers."""
