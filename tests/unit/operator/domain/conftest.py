"""The small world that stories about `plan` are told in."""

import pytest

from tests.property.world import World, training_spec


@pytest.fixture
def world() -> World:
    return World(training_spec(2))
