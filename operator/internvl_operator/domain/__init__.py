"""Pure decisions, no I/O: `plan(spec, observed, now)` and the policies it is made of, one per file."""
