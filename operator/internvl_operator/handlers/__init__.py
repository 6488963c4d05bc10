"""The shell around the decisions: watch, observe, plan, apply. kopf is imported here and nowhere else."""
