"""What several test files need."""

import os
from itertools import groupby

import pytest
import torch

# Asserts of our own modules tell their values as those of test files do.
pytest.register_assert_rewrite("tests")


def pytest_collection_modifyitems(items):
    """Where the environment says so, leave a share of the tests of every file, evenly spaced: see versions.py."""
    most = int(os.environ.get("UPSCALE_FX_TESTS_PER_FILE", "0"))
    if not most:
        return
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    items[:] = [test for tests in files for test in tests[:: -(-len(tests) // most)]]


@pytest.fixture
def double_precision():
    """Float64 by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def seeded():
    """Torch draws the same numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture
def fresh_dynamo():
    """Nothing that torch.compile compiled before, or leaves behind."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
