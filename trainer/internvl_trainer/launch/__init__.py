"""The pod's command: starts one process per accelerator, keeps the first failure's exit code, ends in time."""
