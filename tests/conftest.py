"""What several test files need."""

import pytest
import torch

# Asserts of our own modules tell their values as those of test files do.
pytest.register_assert_rewrite("tests")


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
