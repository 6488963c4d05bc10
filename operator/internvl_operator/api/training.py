"""The InternVLTraining object as a whole."""

from typing import Literal

from pydantic import Field

from internvl_operator.api.base import ApiModel, StatusModel, Timestamp
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import TrainingStatus
from internvl_trainer.contract.base import RunIdentity


class ObjectMeta(StatusModel):
    """The few fields of metav1.ObjectMeta that decisions need."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    deletion_timestamp: Timestamp | None = None


class InternVLTraining(ApiModel):
    """One training run: a model, its data and the chain of stages that train it."""

    api_version: Literal["training.internvl.dev/v1alpha1"]
    kind: Literal["InternVLTraining"]
    metadata: ObjectMeta
    spec: TrainingSpec
    status: TrainingStatus = Field(default=TrainingStatus())

    @property
    def identity(self) -> RunIdentity:
        """The run that this object stands for."""
        return RunIdentity(uid=self.metadata.uid, namespace=self.metadata.namespace, name=self.metadata.name)
