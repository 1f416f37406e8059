"""What is covered besides layers: by kind, which test holds it."""

#: Kind -> the file of tests with its table.
KINDS = {
    "State kept on self, caches: harmless, or refused by name": "tests/tracing/test_state.py",
    "Parts that are compiled, scripted, checkpointed or wrapped; hooks; parametrisations": "tests/tracing/test_wrapped.py",  # noqa: E501
    "Squeezes, in-place calls, attention, complex numbers, gathers, groups, assertions": "tests/tracing/test_rewrites.py",  # noqa: E501
    "Bugs of upscale_fx: an InternalError with the place and the way out": "tests/errors/test_internal.py",
}
