"""CoreDNS for names and kube-proxy for ClusterIPs."""

import json

from hack.cluster import debian, processes, waiting
from hack.cluster.paths import State
from hack.cluster.processes import Started
from hack.cluster.settings import DOMAIN, Settings


def corefile(state: State, settings: Settings) -> str:
    """CoreDNS's configuration: the cluster's names, and a quick NXDOMAIN for all others, as there is no upstream."""
    # Two blocks: within one, `template` would answer before `kubernetes` is asked.
    return f"""\
{DOMAIN} in-addr.arpa ip6.arpa {{
    bind {settings.address}
    errors
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {state.pki / "coredns.kubeconfig"}
        ttl 5
    }}
}}
. {{
    bind {settings.address}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def proxy_config(state: State, settings: Settings) -> dict[str, object]:
    ports = settings.ports
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        # Two pods on one bridge answer each other directly; without this the reply would bypass the translation.
        "nftables": {"masqueradeAll": True, "minSyncPeriod": "100ms"},
        "clientConnection": {"kubeconfig": str(state.pki / "kube-proxy.kubeconfig")},
        "bindAddress": settings.address,
        "clusterCIDR": str(settings.pods),
        "hostnameOverride": settings.nodes[0].name,
        # No NodePort is ever opened beyond the bridge.
        "nodePortAddresses": [f"{settings.address}/32"],
        "metricsBindAddress": f"127.0.0.1:{ports.proxy_metrics}",
        "healthzBindAddress": f"127.0.0.1:{ports.proxy_health}",
        # The machine's connection table stays as it is.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
    }


def start_dns(state: State, settings: Settings) -> Started:
    """Starts CoreDNS on the first bridge."""
    path = state.config / "Corefile"
    path.write_text(corefile(state, settings))
    started = processes.start(state, "coredns", [state.binary("coredns"), "-conf", path])
    processes.record(state, started)
    return started


def start_proxy(state: State, settings: Settings) -> Started:
    """Starts kube-proxy, which makes the nftables table `kube-proxy`."""
    path = state.config / "kube-proxy.json"
    path.write_text(json.dumps(proxy_config(state, settings), indent=2))
    (state.run / "kube-proxy.tables").touch()
    command = [str(state.binary("cluster")), "kube-proxy", f"--config={path}"]
    started = processes.start(state, "kube-proxy", command, debian.environment(state))
    processes.record(state, started)
    return started


def wait_for_proxy(settings: Settings, started: Started) -> None:
    """Returns when kube-proxy has written its rules."""
    url = f"http://127.0.0.1:{settings.ports.proxy_health}/healthz"
    waiting.until("kube-proxy healthy", lambda: waiting.answers(url), 30, started)
