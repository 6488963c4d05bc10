"""Benchmarks of the data path; `python -m bench.data` lists them."""
