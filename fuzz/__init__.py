"""What parses things from outside, tried with things nobody would send: `make fuzz`, and briefly in the suite."""
