"""Addresses, ports and names of the local cluster: the one place where a number is chosen.

Standard library alone: preflight reads it before any package is installed.
"""

import ipaddress
import os
from dataclasses import dataclass

KUBERNETES_VERSION = "v1.35.4"
DOMAIN = "cluster.local"
MAX_NODES = 2

# An interface may not exist twice, and its alias tells which state folder owns it.
BRIDGE_PREFIX = "ivt"
NODE_PREFIX = "node-"

PORTS_VARIABLE = "INTERNVL_CLUSTER_PORTS"
PODS_VARIABLE = "INTERNVL_CLUSTER_POD_CIDR"
SERVICES_VARIABLE = "INTERNVL_CLUSTER_SERVICE_CIDR"
# "1": end the cluster of another clone of the project that is in the way.
TAKE_OVER_VARIABLE = "INTERNVL_CLUSTER_TAKE_OVER"


@dataclass(frozen=True)
class Ports:
    """Every port as an offset from one base, so that a conflict has one remedy: another base.

    26000 and up lie below the kernel's ephemeral range (from 32768), so that no outgoing connection takes one.
    """

    base: int = 26000

    @property
    def etcd(self) -> int:
        return self.base + 379

    @property
    def etcd_peer(self) -> int:
        return self.base + 380

    @property
    def apiserver(self) -> int:
        return self.base + 443

    @property
    def controller_manager(self) -> int:
        return self.base + 257

    @property
    def scheduler(self) -> int:
        return self.base + 259

    @property
    def kubelet(self) -> int:
        return self.base + 250

    @property
    def proxy_metrics(self) -> int:
        return self.base + 249

    @property
    def proxy_health(self) -> int:
        return self.base + 256

    @property
    def s3(self) -> int:
        return self.base + 333

    @property
    def s3_internal(self) -> tuple[int, ...]:
        """Master, volume and filer server, then the gRPC side of these three and of S3."""
        return tuple(self.base + offset for offset in range(334, 341))

    def kubelet_health(self, node: int) -> int:
        return self.base + 240 + node


@dataclass(frozen=True)
class Node:
    """One node: its own network namespace bridge, pod range and folder."""

    index: int
    pods: ipaddress.IPv4Network

    @property
    def name(self) -> str:
        return f"{NODE_PREFIX}{self.index}"

    @property
    def bridge(self) -> str:
        return f"{BRIDGE_PREFIX}{self.index}"

    @property
    def address(self) -> str:
        """The bridge's own address, which is also the node's."""
        return str(self.pods.network_address + 1)


@dataclass(frozen=True)
class Settings:
    """What one cluster is made of. `from_environment` is the way to get one."""

    nodes: tuple[Node, ...]
    pods: ipaddress.IPv4Network
    services: ipaddress.IPv4Network
    ports: Ports

    @classmethod
    def from_environment(cls, nodes: int = 1) -> "Settings":
        """Reads the three variables that move the cluster out of another program's way.

        Raises ValueError, with a message that names the variable, for a value that cannot work.
        """
        if not 1 <= nodes <= MAX_NODES:
            raise ValueError(f"nodes is {nodes}, but a local cluster has 1 to {MAX_NODES}")
        pods = _network(PODS_VARIABLE, "10.244.0.0/16", longest=16)
        services = _network(SERVICES_VARIABLE, "10.96.0.0/16", longest=24)
        base = os.environ.get(PORTS_VARIABLE, "26000")
        if not base.isdigit() or not 1024 <= int(base) <= 65000:
            raise ValueError(f"{PORTS_VARIABLE} is {base!r}, but it must be a number from 1024 to 65000")
        ranges = list(pods.subnets(new_prefix=24))
        return cls(
            nodes=tuple(Node(index, ranges[index]) for index in range(nodes)),
            pods=pods,
            services=services,
            ports=Ports(int(base)),
        )

    @property
    def address(self) -> str:
        """The first bridge's address, on which the API server, DNS and the object store listen."""
        return self.nodes[0].address

    @property
    def api_service(self) -> str:
        """The ClusterIP of the `kubernetes` Service: always the first of the range."""
        return str(self.services.network_address + 1)

    @property
    def api_url(self) -> str:
        return f"https://{self.address}:{self.ports.apiserver}"

    @property
    def s3_url(self) -> str:
        return f"http://{self.address}:{self.ports.s3}"

    def listeners(self) -> list[tuple[str, str, int]]:
        """Every (component, address, port) on which a process of the host's network listens."""
        ports, loopback = self.ports, "127.0.0.1"
        found = [
            ("etcd", loopback, ports.etcd),
            ("etcd", loopback, ports.etcd_peer),
            ("kube-apiserver", self.address, ports.apiserver),
            ("kube-controller-manager", loopback, ports.controller_manager),
            ("kube-scheduler", loopback, ports.scheduler),
            ("kube-proxy", loopback, ports.proxy_metrics),
            ("kube-proxy", loopback, ports.proxy_health),
            ("coredns", self.address, 53),
            ("s3", self.address, ports.s3),
            # SeaweedFS has its gateway on loopback too, whatever address it is given.
            *(("s3", loopback, port) for port in (ports.s3, *ports.s3_internal)),
        ]
        for node in self.nodes:
            found.append((f"kubelet of {node.name}", node.address, ports.kubelet))
            found.append((f"kubelet of {node.name}", loopback, ports.kubelet_health(node.index)))
        return found


def _network(variable: str, default: str, longest: int) -> ipaddress.IPv4Network:
    value = os.environ.get(variable, default)
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError as error:
        raise ValueError(f"{variable} is {value!r}, which is no IPv4 network: {error}") from error
    if network.prefixlen > longest:
        raise ValueError(f"{variable} is {value}, but it needs at least a /{longest}")
    return network
