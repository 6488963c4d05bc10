"""What can go wrong between us and the Kubernetes API, one type for each thing that is handled differently."""


class KubernetesError(Exception):
    """The API server refused a request, or did not answer."""

    def __init__(self, operation: str, code: int, reason: str, message: str) -> None:
        """`code` is the HTTP status, 0 where there was no answer; the rest is what the API server said."""
        super().__init__(f"{operation} failed: {code or 'no answer'} {reason}: {message}")
        self.operation = operation
        self.code = code
        self.reason = reason


class UnavailableError(KubernetesError):
    """Overload, restart or a broken connection: the same request may work later."""


class NotFoundError(KubernetesError):
    """The object, its namespace or its kind does not exist."""


class ConflictError(KubernetesError):
    """The name is taken, or the object is another version or another object than the request says."""


class AccessDeniedError(KubernetesError):
    """Our role lacks a verb, or our credentials are not accepted: an administrator has to act."""


class InvalidObjectError(KubernetesError):
    """The API server's schema, validation rules or admission reject the object."""


class OwnedByAnotherError(KubernetesError):
    """The name that one of our children needs is taken by an object that is not ours."""

    def __init__(self, plural: str, namespace: str, name: str, owners: set[str]) -> None:
        whose = f"owned by {', '.join(sorted(owners))}" if owners else "without an owner"
        super().__init__(
            f"create {plural} {namespace}/{name}", 409, "OwnedByAnother",
            f"an object of this name exists, {whose}; delete it, or rename the InternVLTraining",
        )  # fmt: skip
