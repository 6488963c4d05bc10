"""`kubectl apply` of a run that cannot work says which field is wrong."""

import pytest

from hack.demo.kubectl import KubectlError
from tests.e2e.conftest import Platform
from tests.e2e.stage_of_life import small_run

pytestmark = pytest.mark.e2e


def test_a_tensor_size_that_does_not_fit_the_nodes_is_rejected_by_name(platform: Platform):
    training = platform.training(small_run("wrong"))
    training["spec"]["parallelism"]["tensor"] = 3
    with pytest.raises(KubectlError, match=r"spec\.parallelism\.tensor"):
        platform.kubectl.apply([training])
    assert not platform.kubectl.exists("internvltraining", "wrong")
