"""Progress from a trainer's real token to the status, and what the kubelet and Prometheus ask."""

import json
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest

from internvl_trainer.contract.progress import REPORT_PATH, TOKEN_AUDIENCE, ProgressReport
from tests.integration.operator.conftest import Install, Installation, Make
from tests.integration.operator.harness import Cluster, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def installation(install: Install) -> Installation:
    installation = install()
    installation.operator.start()
    return installation


def post(installation: Installation, token: str, report: ProgressReport) -> tuple[int, str]:
    """What a trainer does, with the CA that its ConfigMap brings."""
    request = urllib.request.Request(
        installation.progress_url + REPORT_PATH,
        data=report.to_bytes(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(installation.authority))
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def at_step(uid: str, step: int, *, attempt: int = 1) -> ProgressReport:
    return ProgressReport(
        run_uid=uid, stage="warmup", attempt=attempt, step=step, total_steps=20, loss=2.5, tokens_per_second=1234.5,
        eta_seconds=60, reported_at=datetime.now(UTC) + timedelta(seconds=step),
    )  # fmt: skip


def scraped(installation: Installation, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{installation.health_port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_pods_report_reaches_the_status(cluster: Cluster, installation: Installation, make_training: Make) -> None:
    uid = cluster.submit(make_training())
    job = cluster.job("run-warmup-a1")
    progress = cluster.config("run-warmup-a1").progress
    assert progress is not None
    assert progress.url == installation.progress_url + REPORT_PATH
    certificate = cluster.core.read_namespaced_config_map("run-warmup-a1", cluster.namespace).data["progress-ca.crt"]
    assert certificate == installation.authority.read_text()

    pod = cluster.start_pod(job)
    cluster.settle_job("run-warmup-a1", "Running")
    token = cluster.pod_token(pod, TOKEN_AUDIENCE)
    assert post(installation, token, at_step(uid, 7)) == (204, "")
    seen = eventually("progress", lambda: cluster.status("run").get("progress"))
    assert (seen["steps"], seen["loss"], seen["tokensPerSecond"]) == ("7/20", "2.5", 1234)

    assert post(installation, token, at_step(uid, 8))[0] == 204
    eventually("newer progress", lambda: cluster.status("run")["progress"]["step"] == 8)
    _, metrics = scraped(installation, "/metrics")
    assert f'internvl_training_step{{name="run",namespace="{cluster.namespace}"}} 8.0' in metrics


def test_tokens_of_others_are_refused(cluster: Cluster, installation: Installation, make_training: Make) -> None:
    uid = cluster.submit(make_training())
    pod = cluster.start_pod(cluster.job("run-warmup-a1"))

    wrong_audience = cluster.pod_token(pod, "https://kubernetes.default.svc")
    assert post(installation, wrong_audience, at_step(uid, 7))[0] == 401
    assert post(installation, "not-a-token", at_step(uid, 7))[0] == 401
    unbound = cluster.token("default", audiences=[TOKEN_AUDIENCE])
    assert post(installation, unbound, at_step(uid, 7))[0] == 403
    of_the_pod = cluster.pod_token(pod, TOKEN_AUDIENCE)
    status, text = post(installation, of_the_pod, at_step(uid, 7, attempt=2))
    assert status == 403
    assert "attempt 2" in json.loads(text)["error"]
    assert "progress" not in cluster.status("run")


def test_a_deleted_pods_token_is_worth_nothing(
    cluster: Cluster, installation: Installation, make_training: Make
) -> None:
    uid = cluster.submit(make_training())
    pod = cluster.start_pod(cluster.job("run-warmup-a1"))
    token = cluster.pod_token(pod, TOKEN_AUDIENCE)
    cluster.core.delete_namespaced_pod(pod, cluster.namespace, grace_period_seconds=0)
    assert post(installation, token, at_step(uid, 7))[0] == 401


def test_probes_answer(installation: Installation) -> None:
    eventually("it is alive", lambda: _answers(installation, "/healthz"))
    eventually("it is ready", lambda: _answers(installation, "/readyz"))


def test_without_progress_there_is_no_endpoint_and_the_pods_know(
    cluster: Cluster, install: Install, make_training: Make
) -> None:
    installation = install("progress.enabled=false")
    installation.operator.start()
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    assert cluster.config("run-warmup-a1").progress is None


def _answers(installation: Installation, path: str) -> bool:
    try:
        return scraped(installation, path)[0] == 200
    except OSError:
        return False
