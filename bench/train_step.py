"""One training step on one device: our engine against a plain `transformers` loop on the same samples.

python -m bench.train_step --model InternVL2_5-1B --peer transformers --profile trace.json
"""

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig, RecomputeConfig
from internvl_trainer.engine import cpu_shim

# Before anything imports megatron.core.
cpu_shim.install()

from bench import devices  # noqa: E402
from bench.contenders import Contender, Ours, Transformers, job_for  # noqa: E402
from bench.measure import compete, enter, trace  # noqa: E402
from bench.result import result  # noqa: E402
from bench.workload import Workload  # noqa: E402
from internvl_trainer.engine import parallel  # noqa: E402

STAGES = {
    "stage1": (Component.PROJECTOR,),
    "stage1.5": (Component.VISION, Component.PROJECTOR),
    "stage2": tuple(Component),
}


@click.command()
@click.option("--model", type=click.Choice(list(catalog.MODELS)), default="InternVL2_5-1B", show_default=True)
@click.option("--pack-tokens", default=16384, show_default=True, help="Tokens of a pack, all of them used.")
@click.option("--pack-tiles", default=48, show_default=True, help="Tiles of a pack, all of them used.")
@click.option("--sample-tokens", default=2000, show_default=True, help="Mean length of a sample.")
@click.option("--packs-per-step", default=1, show_default=True)
@click.option("--stage", type=click.Choice(list(STAGES)), default="stage2", show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--recompute", type=click.Choice(["layers", "none"]), default="layers", show_default=True)
@click.option("--steps", default=20, show_default=True, help="Timed steps of each contender.")
@click.option("--peer", type=click.Choice(["transformers", "none"]), default="transformers", show_default=True)
@click.option(
    "--peer-batch", multiple=True, default=[1], show_default=True, help="Samples per padded batch; repeatable."
)
@click.option("--peak-tflops", type=float, help="The device's peak; known in bf16 for SXM cards of H100, H200, A100.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
@click.option("--profile", type=click.Path(path_type=Path), help="Where to write Chrome traces of one more step each.")
def main(
    model: str,
    pack_tokens: int,
    pack_tiles: int,
    sample_tokens: int,
    packs_per_step: int,
    stage: str,
    precision: str,
    recompute: str,
    steps: int,
    peer: str,
    peer_batch: tuple[int, ...],
    peak_tflops: float | None,
    json_file: Path | None,
    profile: Path | None,
) -> None:
    """Time one optimizer step of each contender, in turns, on packs made by formula."""
    geometry = catalog.get(model)
    job = job_for(
        geometry,
        STAGES[stage],
        precision=precision,
        recompute=RecomputeConfig.model_validate({"vision": recompute, "language": recompute}),
        pack_tokens=pack_tokens,
        pack_tiles=pack_tiles,
        packs_per_step=packs_per_step,
        steps=steps,
    )
    workload = Workload(geometry, pack_tokens, pack_tiles, sample_tokens)
    batches = [[workload.pack(step * packs_per_step + n) for n in range(packs_per_step)] for step in range(steps)]
    peers = [] if peer == "none" else [partial(_peer, job, batch) for batch in sorted(peer_batch, reverse=True)]
    torch.manual_seed(job.optimization.seed)
    with parallel.alone() as place:
        builds: list[Callable[[], Contender]] = [lambda: Ours(job, place), *peers]
        entries = [enter(build, batches[0]) for build in builds]
        compete(entries, batches)
        peak = devices.peak_flops(precision) if peak_tflops is None else peak_tflops * 1e12
        command = f"python -m bench.train_step {shlex.join(sys.argv[1:])}"
        found = result(command, geometry, job.trainable, batches, entries, peak)
        click.echo(f"{found.device}: {model}, {stage}, {precision}, recompute {recompute}")
        click.echo(found.load())
        click.echo(found.table())
        if json_file is not None:
            json_file.write_text(json.dumps(found.as_dict(), indent=1) + "\n")
        if profile is not None:
            for number, entry in enumerate(entries):
                file = profile if number == 0 else profile.with_suffix(f".peer-{number}{profile.suffix}")
                click.echo(f"\n{entry.contender.name}: {file}\n{trace(entry.contender, batches[0], file)}")


def _peer(job: JobConfig, batch: int) -> Contender:
    return Transformers(
        job.model,
        job.trainable,
        job.optimization.precision,
        recompute=job.recompute.language != "none",
        batch=batch,
    )


if __name__ == "__main__":
    main()
