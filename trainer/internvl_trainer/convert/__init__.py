"""Hugging Face checkpoints from and to ours: one declarative table per architecture, and folders read and written."""
