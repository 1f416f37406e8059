"""How much work it takes to prune what is hard to compile, in counts: they do not depend on the machine."""

import pytest
import torch

import upscale_fx
from passes import compact_channels as module
from upscale_fx.bench.compile_time import Readers


@pytest.mark.parametrize("readers", [8, 16])
def test_readers_of_one_tensor_are_ranked_once_per_compaction(readers, monkeypatch):
    """Compaction is repeated while a copy replaces a wider read; nothing else repeats it."""
    counts = {"ranked": 0, "compacted": 0, "analysed": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(module, "rank_channels", counted("ranked", module.rank_channels))
    monkeypatch.setattr(module, "rewrite", counted("compacted", module.rewrite))
    monkeypatch.setattr(module, "analysed_with_entries", counted("analysed", module.analysed_with_entries))
    torch.manual_seed(0)
    upscale_fx.prune(Readers(readers, 32), 0.5)
    assert counts["ranked"] == counts["compacted"]
    assert counts["analysed"] <= counts["compacted"] + 2
