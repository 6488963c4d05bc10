"""Operator and trainers run where Pod Security `restricted` is enforced."""

import pytest

from tests.e2e.conftest import NAMESPACE, Platform

pytestmark = pytest.mark.e2e


def test_the_namespace_enforces_restricted_and_the_operator_runs_in_it(platform: Platform):
    namespace = platform.kubectl.get("namespace", NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = platform.kubectl.items("pods", "--selector", "app.kubernetes.io/name=internvl-operator")
    assert [pod["status"]["phase"] for pod in pods] == ["Running"]
