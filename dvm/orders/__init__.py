"""What a customer asks of agents."""
