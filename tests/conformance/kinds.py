"""Kinds of models, calls and uses that are no layer, and the tests that hold them; docs/coverage.md lists them."""

#: Kind -> the file of tests with its table.
KINDS = {
    "`forward(self, data)`: `Data`, `HeteroData`, `Batch`, dataclasses, named tuples, namespaces, dictionaries, lists "
    "of graphs (28 calls)": "tests/tracing/test_objects.py",
    "results in dataclasses, named tuples, `Data`, `HeteroData`, nested (8)": "tests/tracing/test_objects.py",
    "methods other than `forward` (6)": "tests/tracing/test_methods.py",
    "batches that lack types of nodes or edges (10), types in another order (5)": "tests/tracing/test_missing_types.py",
    "`train()` and `eval()` of parts, shared and nested ones, before and after": "tests/whole/test_modes_of_parts.py",
    "`no_grad`, `inference_mode`, `detach` and other contexts in `forward`": "tests/whole/test_contexts.py",
    "State kept on self, caches: harmless, or refused by name": "tests/tracing/test_kept_state.py",
    "Compiled, scripted, checkpointed, wrapped parts; hooks; parametrisations": "tests/tracing/test_wrapped.py",
    "Squeezes, in-place calls, attention, complex numbers, gathers, assertions": "tests/tracing/test_rewrites.py",
    "States of LSTM, GRU and RNN that nothing reads (24)": "tests/compacting/test_recurrent_states.py",
    "Weights that are parts of a parameter, by several indices (8)": "tests/compacting/test_indexed_parameters.py",
    "Bugs of upscale_fx: an InternalError with the place and the way out": "tests/errors/test_internal.py",
    "branches, numbers, generators: refused with a remedy that works (19)": "tests/tracing/test_remedies.py",
}
