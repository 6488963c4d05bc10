"""Checkpoints against a real S3 server: ours, peers and the server's ceiling; run `python -m bench.checkpoint`."""
