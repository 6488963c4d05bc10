"""Certificates of authorities, in files: boto3 takes them by path alone."""

import hashlib
import os
import ssl
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory


def are_readable(pem: str) -> bool:
    """Whether a text holds at least one certificate, in PEM, that a TLS connection can be verified with."""
    if not pem.strip():
        return False
    try:
        # Comments between certificates may be in any language; OpenSSL itself passes them over.
        plain = pem.encode("ascii", "ignore").decode()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=plain)
    except (ssl.SSLError, ValueError):
        return False
    return True


class CertificateFiles:
    """Files in a folder of this process's own, each named by the digest of its contents: one for each text."""

    def __init__(self) -> None:
        """Nothing is written before the first text is: most operators meet none."""
        self._folder: TemporaryDirectory[str] | None = None

    def path(self, pem: str) -> Path:
        """The file with these certificates, which is there until `keep_only` or `close`."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="internvl-ca-")
        path = Path(self._folder.name) / _name(pem)
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as sink:
                sink.write(pem)
        return path

    def keep_only(self, wanted: Collection[str]) -> None:
        """Remove the files of all other texts."""
        names = {_name(pem) for pem in wanted}
        for path in Path(self._folder.name).iterdir() if self._folder else ():
            if path.name not in names:
                path.unlink()

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _name(pem: str) -> str:
    return f"{hashlib.sha256(pem.encode()).hexdigest()}.crt"
