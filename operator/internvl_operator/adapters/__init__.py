"""The outside world: Kubernetes API, object stores, trainers that report progress, clock, metrics and logs."""
