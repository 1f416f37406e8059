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
]
