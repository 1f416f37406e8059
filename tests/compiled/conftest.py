"""Pruned models that several files prepare graphs for."""

import pytest

from tests.compiled.handles import pruned


@pytest.fixture(scope="module")
def gcn():
    return pruned("family-gcn")


@pytest.fixture(scope="module")
def weighted():
    return pruned("gcn-weighted")
