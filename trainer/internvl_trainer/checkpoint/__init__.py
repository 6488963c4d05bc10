"""Checkpoints: sharded save to the object store, commit by manifest, verified load, handoff of single components.

Import from the modules; this file stays empty of imports, so that the tools that only look at manifests need no torch.
"""
