"""From the recipe to what is applied: pure functions that build InternVLTraining objects."""

from typing import Any

from hack.demo.install import SECRET
from hack.demo.recipe import Run, Stage
from hack.demo.target import Storage
from internvl_operator.api.base import API_VERSION, KIND
from internvl_trainer.contract import catalog


def training(
    run: Run, *, namespace: str, storage: Storage, data_uri: str, language_uri: str | None = None
) -> dict[str, Any]:
    """The InternVLTraining of a run.

    Args:
        run: its recipe.
        namespace: where it goes.
        storage: the object store that checkpoints and data lie in.
        data_uri: folder of the demo's data set.
        language_uri: manifest of the pretrained language model's checkpoint; None for random weights.
    """
    spec: dict[str, Any] = {
        "model": run.model,
        "resources": {
            "nodes": run.nodes,
            "processesPerNode": run.processes_per_node,
            "sharedMemory": "256Mi",
            "container": {"requests": {"cpu": "100m", "memory": "512Mi"}},
        },
        "parallelism": {
            "tensor": run.layout.tensor,
            "pipeline": run.layout.pipeline,
            # Equally many for each stage: by cost, the first of two would have none and be refused.
            "pipelineLayers": [catalog.get(run.model).language.layers // run.layout.pipeline] * run.layout.pipeline,
            "data": run.layout.data,
        },
        "storage": storage.spec(SECRET),
        "data": {"tokenizer": f"{data_uri}/tokenizer"},
        "stages": [_stage(stage, data_uri) for stage in run.stages],
        "runPolicy": {"retry": {"limit": 2, "backoffSeconds": {"initial": 2, "max": 30}}},
    }
    if language_uri is not None:
        spec["weights"] = {"language": language_uri}
    if run.vision_from is not None:
        name, stage = run.vision_from
        spec["vision"] = {"from": {"trainingRef": {"name": name, "stage": stage}}}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": run.name, "namespace": namespace},
        "spec": spec,
    }


def _stage(stage: Stage, data_uri: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": stage.name,
        "trainable": [str(component) for component in stage.trainable],
        "steps": stage.steps,
        "globalBatch": stage.global_batch,
        "precision": "fp32",
        # Tiny activations are cheaper kept than computed twice.
        "recompute": {"vision": "none", "language": "none"},
        "optimizer": {
            "peakLr": str(stage.peak_lr),
            "warmupSteps": stage.warmup_steps,
            "weightDecay": str(stage.weight_decay),
        },
        "loss": {"reweighting": stage.reweighting},
        "dropPath": str(stage.drop_path),
        "checkpoint": {"everySteps": stage.checkpoint_every},
        "data": {
            "meta": f"{data_uri}/{stage.data}.json",
            "packTokens": stage.packing.tokens,
            "packTiles": stage.packing.tiles,
            "maxTiles": stage.packing.max_tiles,
            "seed": stage.seed,
        },
    }
    if stage.publish:
        spec["publish"] = [str(component) for component in stage.publish]
    return spec
