"""The real cluster, its node, the real S3 server and the operator, installed by helm into a `restricted` namespace."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hack.cluster import cluster, preflight, teardown
from hack.cluster.paths import State
from hack.cluster.report import Report
from hack.cluster.settings import Settings
from hack.demo import install, publication, target, trainings
from hack.demo.kubectl import Kubectl, KubernetesObject
from hack.demo.recipe import Run
from internvl_trainer.storage import ObjectStore, open_store

NAMESPACE = "internvl-e2e"


@dataclass(frozen=True)
class Platform:
    """What a platform team has after `helm install`."""

    target: target.Target
    store: ObjectStore
    data_uri: str

    @property
    def kubectl(self) -> Kubectl:
        """kubectl in the runs' namespace."""
        return self.target.kubectl

    def training(self, run: Run) -> KubernetesObject:
        """The InternVLTraining of a recipe."""
        return trainings.training(run, namespace=NAMESPACE, storage=self.target.storage, data_uri=self.data_uri)

    def apply(self, run: Run) -> str:
        """Apply a run and return its UID."""
        self.kubectl.apply([self.training(run)])
        return str(self.kubectl.get("internvltraining", run.name)["metadata"]["uid"])


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Everything up and ready. The cluster is taken down again only where these tests brought it up."""
    state, settings = State(), Settings.from_environment(1)
    assert not preflight.problems(settings, state), preflight.problems(settings, state)
    was_up = teardown.exists(state)
    cluster.up(state, settings, Report())
    try:
        where = target.local(NAMESPACE, state)
        os.environ.update(where.storage.environment)
        store = open_store(endpoint_url=where.storage.endpoint_url, region=where.storage.region)
        demo = state.root / "demo"
        data_uri = publication.publish(
            publication.make(demo / "data", packages=demo / "debian"), f"{where.storage.uri}/data", store, say=print
        )
        install.install(where)
        yield Platform(where, store, data_uri)
    finally:
        if not was_up:
            with cluster.exclusive(state):
                teardown.down(state, Report())
