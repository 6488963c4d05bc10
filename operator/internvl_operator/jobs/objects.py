"""What all children have in common: whose they are, by what they are found, and the ConfigMap beside each job."""

from collections.abc import Mapping

from internvl_operator.api import labels
from internvl_operator.api.base import API_VERSION, KIND
from internvl_operator.jobs.base import JsonObject
from internvl_trainer.contract.base import RunIdentity


def run_labels(run: RunIdentity, own: Mapping[str, str]) -> dict[str, str]:
    """The labels of a run's children, with those that tell one from the other.

    Args:
        own: the labels that this child has beside those of all.
    """
    return {
        labels.MANAGED_BY: labels.MANAGER,
        labels.RUN_UID: run.uid,
        labels.RUN_NAME: run.name,
        **own,
    }


def metadata(run: RunIdentity, name: str, given: Mapping[str, str]) -> JsonObject:
    """Name, labels and owner of a child: it goes with the run."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "namespace": run.namespace, "labels": dict(given), "ownerReferences": [owner]}


def config_map(described: JsonObject, data: Mapping[str, str]) -> JsonObject:
    """The ConfigMap with a job's config; nothing that runs may see it change.

    Args:
        described: its metadata, which is also the job's.
        data: contents by file name.
    """
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": described, "immutable": True, "data": dict(data)}
