"""What several test files need."""

import gc

import pytest
import torch

# Asserts of our own modules tell their values as those of test files do.
pytest.register_assert_rewrite("tests")


def pytest_collection_finish():
    """Garbage collections need not look at what was imported, which is most of all objects: a tenth of the time."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def fresh():
    """Processes that know nothing of the tests, from one that is started for all of them."""
    from tests.fresh import FreshProcesses  # only now, since its asserts are rewritten

    processes = FreshProcesses()
    yield processes
    processes.close()
