"""How models of the zoo are run and compared."""

import torch

from tests.comparison import assert_same

AMOUNTS = (0.25, 0.5, 0.75)
SIZES = ((23, 70, 3), (40, 31, 5))  # nodes, edges, graphs: one dense graph, one with isolated nodes
SINGLE = (1, 0, 1)


def run(model, entry, size=SIZES[0], dtype=torch.float64, seed=3):
    inputs = {key: v.to(dtype) if v.is_floating_point() else v for key, v in entry.inputs(*size, seed=11).items()}
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(**inputs)


def assert_same_on_all_sizes(expected, found, entry):
    for size in SIZES:
        assert_same(run(expected, entry, size), run(found, entry, size))
    try:
        alone = run(expected, entry, SINGLE)
    except (RuntimeError, ValueError, IndexError):
        return  # the model itself refuses a single node without edges
    assert_same(alone, run(found, entry, SINGLE))


def own_keys(state):
    return {key for key in state if not key.endswith(("_folded", "_extra_state"))}
