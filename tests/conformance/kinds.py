"""What is covered besides layers: by kind, which test holds it."""

#: Kind -> the file of tests with its table.
KINDS = {
    "State kept on self, caches: harmless, or refused by name": "tests/tracing/test_state.py",
    "Compiled, scripted, checkpointed, wrapped parts; hooks; parametrisations": "tests/tracing/test_wrapped.py",
    "Squeezes, in-place calls, attention, complex numbers, gathers, assertions": "tests/tracing/test_rewrites.py",
    "Bugs of upscale_fx: an InternalError with the place and the way out": "tests/errors/test_internal.py",
}
