"""What the figures run in processes of their own: relay, load, agents, rivals."""
