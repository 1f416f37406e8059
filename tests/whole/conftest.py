"""What several files about the whole need."""

import pytest

from tests.whole.refusals import layered


@pytest.fixture
def model():
    """Layers in different modes and one of them frozen, so that it shows when something is not put back."""
    return layered()
