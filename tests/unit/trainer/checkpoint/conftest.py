"""A storage of several runs in a folder, for the commands that work on one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from internvl_trainer.storage import ObjectStore, open_store
from tests.unit.trainer.checkpoint.bucket import Bucket


@pytest.fixture
def store() -> ObjectStore:
    return open_store()


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(f"file://{tmp_path}/runs", datetime.now(UTC))
