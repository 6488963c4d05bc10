"""The demo: what a tiny model learns (colour pictures with their Unicode names), and the runs that learn it."""
