"""Ways of holding a compiled model that are covered: what holds, and the test that shows it."""

USAGES = [
    (
        "checkpoints",
        "a state loads into graphs of the same channels and folds, after files, averages and casts; others are refused",
        "tests/compiled/test_state.py",
    ),
    (
        "graphs changed by hand",
        "weights, modules and unfused graphs are used with the change; fused graphs are refused by the nodes",
        "tests/compiled/test_edited_graphs.py",
    ),
    (
        "hooks on modules",
        "run on every module that the graph calls, and see what it computes; refused by name on all others",
        "tests/compiled/test_layers.py",
    ),
    (
        "layers by type",
        "`nn.Linear`, `Embedding`, `LayerNorm`, `PReLU` and convolutions are found, initialised and quantised as such",
        "tests/compiled/test_layers.py",
    ),
    (
        "masks and norms of weights",
        "`torch.nn.utils.prune`, Lightning's way of calling it, `weight_norm`, parametrizations: calls read the result",
        "tests/compiled/test_masked_layers.py",
    ),
    (
        "counters of operations",
        "`FlopCounterMode` counts fused operators forward and backward, by module",
        "tests/operators/test_flops.py",
    ),
    (
        "states of parts",
        "a state of a list, a layer, a norm or a recurrent layer loads into the same channels only",
        "tests/compiled/test_part_state.py",
    ),
    (
        "`torch.func`, `torch.jit`",
        "transforms, `functional_call` and `torch.jit.trace` give what the model gives; `torch.jit.script` is refused",
        "tests/compiled/test_transforms.py",
    ),
    (
        "forces",
        "gradients of a compiled energy, first and second order; inside `forward` refused with the way out",
        "tests/whole/test_forces.py",
    ),
    (
        "tied parameters",
        "stay one through pruning, copies and states (10 models), or are named; tensors of layers read besides (7)",
        "tests/compacting/test_ties.py",
    ),
]
