"""Real parts that integration tests share."""

import os
from collections.abc import Iterator

import boto3
import pytest

from hack.cluster import object_store
from hack.cluster.object_store import ObjectStore as S3Server

BUCKET = "checkpoints"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server with the bucket `checkpoints`, its key pair in the environment of this session."""
    with object_store.running() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        boto3.session.Session().client("s3", endpoint_url=server.endpoint).create_bucket(Bucket=BUCKET)
        yield server
