"""A pod's termination message: the one line by which the operator and `kubectl describe` say why it ended."""

import os
from pathlib import Path

KUBERNETES_FILE = Path("/dev/termination-log")
"""Where the kubelet reads it from, by default; outside a pod there is no such file."""

LIMIT = 2048
"""Bytes; half of what the kubelet keeps of one container."""


def leave(message: str, file: Path = KUBERNETES_FILE) -> bool:
    """Write why this process ends, unless another process of the pod was first: it is nearer to the cause.

    Returns:
        whether the message was written.
    """
    try:
        handle = os.open(file, os.O_WRONLY | os.O_APPEND)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        if os.fstat(handle).st_size:
            return False
        os.write(handle, " ".join(message.split()).encode()[:LIMIT])
        return True
    finally:
        os.close(handle)
