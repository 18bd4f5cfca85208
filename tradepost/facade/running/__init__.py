"""How the desk does, for its operator."""
