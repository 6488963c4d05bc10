"""The operator's own settings: a YAML file, which the chart mounts from a ConfigMap, and environment variables over it.

A variable `INTERNVL_OPERATOR__<SECTION>__<FIELD>` (any depth, names in snake case) replaces one value of the file and
is read as YAML, so numbers, lists and null mean what they mean there. What only the pod knows (its address) comes in
this way.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

ENVIRONMENT_PREFIX = "INTERNVL_OPERATOR__"


class InvalidSettingsError(ValueError):
    """The settings cannot be used. The message is one line that names the source, the field and the fault."""


class Settings(BaseModel):
    """The base of every section: frozen, camelCase in YAML, unknown fields rejected."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class ReconcileSettings(Settings):
    """How often and how patiently each InternVLTraining is looked at."""

    fallback_seconds: float = Field(
        default=30.0, gt=0, description="longest time between two looks at a run when nothing wakes the operator"
    )
    idle_seconds: float = Field(default=600.0, gt=0, description="the same for runs that have ended")
    progress_seconds: float = Field(
        default=5.0, gt=0, description="shortest time between two status writes that only bring newer progress"
    )
    settle_seconds: float = Field(
        default=0.2, ge=0, description="wait after a wake-up, so that a burst of child events makes one pass"
    )
    retry_initial_seconds: float = Field(default=1.0, gt=0, description="first wait after a pass that failed")
    retry_max_seconds: float = Field(default=60.0, gt=0, description="longest wait after passes that failed")
    pass_timeout_seconds: float = Field(
        default=900.0, gt=0, description="a pass that takes longer is given up and tried again; digests take time"
    )
    concurrent_passes: int = Field(default=16, ge=1, description="runs that are reconciled at the same moment")


class TrainerSettings(Settings):
    """Defaults of the platform for trainer pods; each InternVLTraining can override them."""

    image: str = Field(default="", description="image of runs that name none")
    pod_template: dict[str, Any] = Field(
        default_factory=dict, description="overlay laid over the pods of every run, below the run's own podTemplate"
    )


class ProgressSettings(Settings):
    """The HTTPS endpoint that trainer pods report to. Without a public URL there is none, and pods report nothing."""

    public_url: str = Field(default="", pattern=r"^(https://\S+)?$", description="how pods reach the endpoint")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8443, ge=0, le=65535)
    certificate_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = Field(default=None, description="certificate that pods verify the endpoint with")
    report_seconds: float = Field(default=5.0, gt=0, description="how often a pod reports")
    token_cache_seconds: float = Field(default=60.0, ge=0, description="how long a reviewed token is trusted")
    max_body_bytes: int = Field(default=16 * 1024, ge=1024)

    @property
    def enabled(self) -> bool:
        """Whether there is an endpoint at all."""
        return bool(self.public_url)

    @model_validator(mode="after")
    def _has_certificate(self) -> Self:
        if self.enabled and not (self.certificate_file and self.key_file and self.ca_file):
            raise ValueError("publicUrl is set, so certificateFile, keyFile and caFile must be set too")
        return self


class HealthSettings(Settings):
    """The plain HTTP port for probes (/healthz, /readyz) and Prometheus (/metrics)."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    stale_seconds: float = Field(
        default=1200.0, gt=0, description="/healthz fails once no pass has ended for so long while runs wait for one"
    )


class GateSettings(Settings):
    """How thoroughly a checkpoint is verified before the next stage starts from it."""

    full_digest_bytes: int = Field(
        default=1024**3,
        ge=0,
        description="checkpoints of at most so many bytes are read whole and hashed; "
        "of larger ones sizes and ETags alone are compared",
    )
    threads: int = Field(default=4, ge=1, description="requests to object stores at the same moment")
    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    read_timeout_seconds: float = Field(default=30.0, gt=0)


class LoggingSettings(Settings):
    """Lines on standard error."""

    format: Literal["json", "plain"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class OperatorSettings(Settings):
    """Everything that the operator is told at start."""

    watch_namespaces: tuple[str, ...] = Field(default=(), description="namespaces served; empty: all of the cluster")
    reconcile: ReconcileSettings = ReconcileSettings()
    trainer: TrainerSettings = TrainerSettings()
    progress: ProgressSettings = ProgressSettings()
    health: HealthSettings = HealthSettings()
    gate: GateSettings = GateSettings()
    logging: LoggingSettings = LoggingSettings()


def load_settings(path: Path | None, environment: Mapping[str, str]) -> OperatorSettings:
    """The settings of a YAML file, with the environment's values over it.

    Args:
        path: the file; None for defaults and environment alone.
        environment: usually `os.environ`; variables without our prefix are ignored.

    Raises:
        InvalidSettingsError: the file cannot be read, is no YAML mapping, or a field is unknown or out of its range.
    """
    document = _read(path) if path else {}
    source = str(path) if path else "the environment"
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            _override(document, name, value)
    try:
        return OperatorSettings.model_validate(document)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg']}" for fault in error.errors()]
        raise InvalidSettingsError(f"settings from {source} are invalid: {'; '.join(faults)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettingsError(f"settings file {path} is no YAML: {_one_line(error)}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidSettingsError(f"settings file {path} holds a {type(document).__name__}, expected a mapping")
    return document


def _override(document: dict[str, Any], name: str, value: str) -> None:
    *sections, field = (to_camel(part.lower()) for part in name.removeprefix(ENVIRONMENT_PREFIX).split("__"))
    target = document
    for section in sections:
        inner = target.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InvalidSettingsError(f"environment variable {name} leads into {section}, which is no mapping")
        target = inner
    try:
        target[field] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidSettingsError(f"environment variable {name} is no YAML: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
