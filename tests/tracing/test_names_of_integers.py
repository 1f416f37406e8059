"""Arguments called as graph numbers are, which hold other integers: words, categories, neighbours, in any shape."""

import pytest
import torch
from torch import nn

from tests.comparison import assert_pruned_exactly
from tests.selection import every

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Words(nn.Module):
    """Words of a sentence, in any number of axes; ``extra`` is added to their encoding."""

    def __init__(self):
        super().__init__()
        self.word, self.hidden, self.out = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 2)

    def encode(self, words, extra=0):
        h = self.word(words) + extra
        return self.out(self.hidden(h).relu().flatten(1, -2).mean(1))


def named(signature, words, extra="0"):
    """A model whose forward() has these arguments, and reads its words by an expression."""
    space = {}
    exec(f"def forward(self, {signature}):\n    return self.encode({words}, {extra})", space)
    return type("Named", (Words,), {"forward": space["forward"]})


def words(*size):
    return torch.randint(9, size)


CASES = {
    "batch": ("batch", "batch", "0", lambda n: (words(n, 5),)),
    "batch_feat": ("batch_feat", "batch_feat", "0", lambda n: (words(n, 4, 3),)),
    "x_batch and x": ("x, x_batch", "x_batch", "x.unsqueeze(1)", lambda n: (torch.randn(n, 8), words(n, 5))),
    "index": ("index", "index", "0", lambda n: (words(n, 6),)),
    "ptr": ("ptr", "ptr", "0", lambda n: (words(n, 6),)),
    "word_ptr": ("word_ptr", "word_ptr", "0", lambda n: (words(n, 6),)),
    "batched_data": ("batched_data", "batched_data['w']", "0", lambda n: ({"w": words(n, 7, 4)},)),
    "a dictionary with more": (
        "batch",
        "batch['w']",
        "batch['h'].unsqueeze(1)",
        lambda n: ({"w": words(n, 5), "h": torch.randn(n, 8)},),
    ),
    "keys": ("data", "data['index']", "0", lambda n: ({"index": words(n, 5)},)),
    "a list": ("batches", "batches[0]", "0", lambda n: ([words(n, 5)],)),
}


@pytest.mark.parametrize("name", every(3, CASES))
def test_integers_with_several_axes_are_no_graph_numbers(name):
    signature, read, extra, call = CASES[name]
    model = named(signature, read, extra)().eval()
    assert_pruned_exactly(model, call(20), [call(20), call(33), call(7)])
