"""What several test files need."""

import pytest
import torch


@pytest.fixture
def double_precision():
    """Float64 by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
