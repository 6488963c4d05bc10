"""SeaweedFS as the S3 service: of the cluster on its bridge, or of a test on loopback."""

import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import network, processes, waiting
from hack.cluster.errors import ClusterError
from hack.cluster.paths import State, write_private
from hack.cluster.processes import Started
from hack.cluster.settings import Settings

# Any region does; boto3 wants one.
REGION = "us-east-1"


@dataclass(frozen=True)
class ObjectStore:
    """An S3 endpoint and the credentials of its only user, who may do everything."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = REGION

    def environment(self) -> dict[str, str]:
        """The variables by which boto3 and every AWS client find it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


@dataclass(frozen=True)
class Listeners:
    """The address and ports of one server: S3, then master, volume and filer, then gRPC of these three and of S3."""

    address: str
    s3: int
    internal: Sequence[int]


def command(state: State, listeners: Listeners) -> list[str]:
    """`weed server` with everything off that is not S3, and nothing bound to any other address."""
    master, volume, filer, master_grpc, volume_grpc, filer_grpc, s3_grpc = listeners.internal
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        raise ClusterError(f"SeaweedFS is missing at {program}: run `make venv`")
    return [
        str(program),
        # Its own log files would go to /tmp.
        "-logtostderr=true",
        "-v=0",
        "server",
        f"-dir={state.objects}",
        # Only the S3 gateway asks for credentials; what is behind it stays on loopback.
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.ip.bind={listeners.address}",
        "-master",
        "-volume",
        "-filer",
        "-s3",
        "-master.telemetry=false",
        # One master needs no election, for which the others would wait up to 8 s.
        "-master.peers=none",
        # Volumes are grown in sevens: small ones, or the first bucket takes gigabytes.
        "-master.volumeSizeLimitMB=256",
        "-volume.max=0",
        # Nobody has to notice that the only volume server is going away.
        "-volume.preStopSeconds=0",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={state.run / 'filer.sock'}",
        f"-s3.port={listeners.s3}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={state.run / 's3.sock'}",
        f"-s3.config={state.config / 's3.json'}",
    ]


def start(state: State, listeners: Listeners, *, dies_with_parent: bool = False) -> tuple[Started, ObjectStore]:
    """Starts an empty store with new credentials, which it also writes to `state.s3_env`."""
    store = ObjectStore(
        endpoint=f"http://{listeners.address}:{listeners.s3}",
        access_key=f"IVT{secrets.token_hex(8).upper()}",
        secret_key=secrets.token_urlsafe(30),
    )
    identity = {
        "name": "internvl",
        "credentials": [{"accessKey": store.access_key, "secretKey": store.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(state.config / "s3.json", json.dumps({"identities": [identity]}))
    write_private(state.s3_env, "".join(f"{name}={value}\n" for name, value in store.environment().items()))
    state.objects.mkdir(exist_ok=True)
    started = processes.start(state, "s3", command(state, listeners), dies_with_parent=dies_with_parent)
    processes.record(state, started)
    return started, store


def remove_sockets(listeners: Listeners) -> None:
    """Takes away the sockets that SeaweedFS makes in /tmp for its gRPC ports, whatever it is told."""
    names = ("master", "volume", "filer", "s3")
    for name, port in zip(names, listeners.internal[-len(names) :], strict=True):
        Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


def of_cluster(settings: Settings) -> Listeners:
    """Where the cluster's own store listens."""
    return Listeners(settings.address, settings.ports.s3, settings.ports.s3_internal)


def wait(store: ObjectStore, started: Started, seconds: float = 60) -> None:
    """Returns when objects can be written: the gateway answers before its volume server has joined."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        region_name=store.region,
        config=Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1}),
    )

    def writes() -> bool:
        try:
            client.create_bucket(Bucket="ready-check")
            client.put_object(Bucket="ready-check", Key="probe", Body=b"x")
            client.delete_object(Bucket="ready-check", Key="probe")
            client.delete_bucket(Bucket="ready-check")
        except (BotoCoreError, ClientError):
            return False
        return True

    waiting.until(f"S3 at {store.endpoint} takes objects", writes, seconds, started)


@contextlib.contextmanager
def running(folder: Path | None = None, *, address: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """A real S3 server on free ports, for the time of a `with` block; needs neither root nor the cluster.

    `folder` keeps its data and log (default: a temporary folder). It ends at the block's end, and by the kernel if
    this process is killed. Raises ClusterError when it does not start.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="internvl-s3-")))
        state = State(folder)
        state.prepare()
        s3, *internal = network.free_ports(8)
        listeners = Listeners(address, s3, internal)
        started, store = start(state, listeners, dies_with_parent=True)
        stack.callback(remove_sockets, listeners)
        stack.callback(lambda: processes.stop([started.process], patience=0))
        wait(store, started)
        yield store
