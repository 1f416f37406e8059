"""Kinds of models and calls that tables of their own cover, and where those are; docs/coverage.md lists them."""

KINDS = [
    ("`forward(self, data)`: `Data`, `HeteroData`, `Batch`, dataclasses, named tuples, namespaces, dictionaries, lists "
     "of graphs (28 calls)", "`tests/tracing/test_objects.py`"),
    ("results in dataclasses, named tuples, `Data`, `HeteroData`, nested (8)", "`tests/tracing/test_objects.py`"),
    ("methods other than `forward` (6)", "`tests/tracing/test_methods.py`"),
    ("batches that lack types of nodes or edges (10), types in another order (5)",
     "`tests/tracing/test_missing_types.py`"),
]  # fmt: skip
