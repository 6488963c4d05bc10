"""What a mixture consists of, counted from its indexes alone."""
