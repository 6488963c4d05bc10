"""Benchmarks against peers. Each prints its own command's figures; docs/performance.md keeps them, dated."""
