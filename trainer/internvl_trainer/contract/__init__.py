"""What operator and trainer agree on: torch-free, and all that the operator may import from the trainer."""
