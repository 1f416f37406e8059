"""Kinds of models and uses that are no layer, and the tests that hold them."""

KINDS = {
    "`train()` and `eval()` of parts, shared and nested ones, before and after": "tests/whole/test_modes_of_parts.py",
    "`no_grad`, `inference_mode`, `detach` and other contexts in `forward`": "tests/whole/test_contexts.py",
}
