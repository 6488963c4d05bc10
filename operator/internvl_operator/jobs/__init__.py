"""Child workloads behind one small interface: build the manifests of an attempt, observe what became of it."""
