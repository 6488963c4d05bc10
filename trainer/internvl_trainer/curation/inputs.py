"""How every subcommand is told which data it is about: a job file, or a meta JSON with a tokenizer and a model."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
from pydantic import ValidationError

from internvl_trainer.contract import catalog, environment
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig, JobConfig
from internvl_trainer.curation.endings import failing_well
from internvl_trainer.data.samples import check_vocabulary
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.launch.job_file import JobFileError, from_folder, parse_change, read_job
from internvl_trainer.launch.places import Places
from internvl_trainer.storage import ObjectStore, open_store

DEFAULT_MODEL = "InternVL2_5-1B"

_INTERRUPTED = "indexes that were finished by then are kept, and the same command goes on with the others"


class Inputs(NamedTuple):
    """What a subcommand works on."""

    data: DataConfig
    model: ModelGeometry
    store: ObjectStore
    cache: Path
    """Folder of this machine for indexes and copies of remote annotations; it may be kept or lost at will."""
    job: JobConfig | None = None
    """Where the data was named by one."""


def load_tokenizer(inputs: Inputs) -> Tokenizer:
    """The tokenizer that the data is counted with.

    Raises:
        TokenizerError: it is unusable, or another model's. Said here, since an index that is found is read without it.
    """
    tokenizer = Tokenizer.load(inputs.data.tokenizer, inputs.store, family=inputs.model.language.family)
    check_vocabulary(tokenizer, inputs.model, inputs.data.tokenizer)
    return tokenizer


def takes_data(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments that name its data; it gets them as `inputs`, and fails with our exit codes."""

    @wraps(command)
    def told(
        *,
        meta: str | None,
        config: Path | None,
        tokenizer: str | None,
        model: str | None,
        changes: tuple[str, ...],
        endpoint_url: str | None,
        region: str | None,
        virtual_host_style: bool,
        ca_file: str | None,
        cache: Path,
        **options: Any,
    ) -> None:
        with failing_well({"--cache": cache}, interrupted=_INTERRUPTED):
            job: JobConfig | None = None
            if config is None:
                data, geometry = _of_meta(meta, tokenizer, model, changes)
                store = open_store(
                    endpoint_url=endpoint_url, region=region, path_style=not virtual_host_style, ca_file=ca_file
                )
            else:
                if meta or tokenizer or model:
                    raise click.UsageError("--config names data, tokenizer and model; give no others beside it")
                job = read_job(config, [f"data.{change}" for change in changes], now=datetime.now(UTC))
                data, geometry, storage = job.data, job.model, job.storage
                store = open_store(
                    endpoint_url=endpoint_url or storage.endpoint_url,
                    region=region or storage.region,
                    path_style=storage.path_style and not virtual_host_style,
                    ca_file=ca_file or storage.ca_file,
                )
            command(inputs=Inputs(data, geometry, store, cache, job), **options)

    for option in reversed(_OPTIONS):
        told = option(told)
    return told


_OPTIONS = (
    click.argument("meta", required=False),
    click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A job, as `internvl train` or a trainer pod reads it, in place of META, --tokenizer and --model.",
    ),
    click.option("--tokenizer", help="Folder with tokenizer.json, by URI or path; together with META."),
    click.option("--model", help=f"Model of the catalogue; together with META. Default: {DEFAULT_MODEL}."),
    click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Set a field of the job's data section, such as pack_tokens=8192. Can be given several times.",
    ),
    click.option("--endpoint-url", help="S3-compatible endpoint; default: the job's, the environment's, else AWS."),
    click.option("--region", help="S3 region; default: the job's, else the environment's."),
    click.option("--virtual-host-style", is_flag=True, help="Put the bucket into the host name, not the path."),
    click.option("--ca-file", help="PEM file that signs the endpoint's certificate; default: the job's."),
    click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        envvar=environment.SCRATCH,
        default=lambda: Path(click.get_app_dir("internvl")) / "cache",
        show_default="a folder of the user's",
        help="Folder of this machine for indexes and copies of remote annotations.",
    ),
)


def _of_meta(
    meta: str | None, tokenizer: str | None, model: str | None, changes: tuple[str, ...]
) -> tuple[DataConfig, ModelGeometry]:
    if not (meta and tokenizer):
        raise click.UsageError("name the data: META with --tokenizer, or --config with a job file")
    fields: dict[str, Any] = {
        "meta": from_folder(meta, Path.cwd()),
        "tokenizer": from_folder(tokenizer, Path.cwd()),
    }
    places = Places(Path("--set"), JobFileError, "a change is FIELD=VALUE")
    for change in changes:
        key, value = parse_change(change)
        name = ".".join(map(str, key))
        fields[name] = value
        places.changed[name,] = change
    if isinstance(fields.get("index"), str):
        fields["index"] = from_folder(fields["index"], Path.cwd())
    try:
        return DataConfig.model_validate(fields), catalog.get(model or DEFAULT_MODEL)
    except ValidationError as error:
        raise JobFileError(places.explain(error, DataConfig)) from error
