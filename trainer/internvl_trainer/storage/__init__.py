"""The object store: one small interface over S3 and over folders."""

from internvl_trainer.storage.errors import (
    AlreadyExistsError,
    InvalidLocationError,
    ObjectChangedError,
    ObjectNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from internvl_trainer.storage.store import ObjectInfo, ObjectStore, UnfinishedUpload, open_store
from internvl_trainer.storage.traits import Traits

__all__ = [
    "AlreadyExistsError",
    "InvalidLocationError",
    "ObjectChangedError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectStore",
    "StoreDeniedError",
    "StoreError",
    "StoreUnavailableError",
    "Traits",
    "UnfinishedUpload",
    "open_store",
]
