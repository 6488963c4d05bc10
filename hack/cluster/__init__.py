"""A whole Kubernetes cluster on one machine, from real and pinned parts; see docs/tasks/local-cluster.md.

Kept free of imports: `preflight` runs from here before any package is installed.
"""
