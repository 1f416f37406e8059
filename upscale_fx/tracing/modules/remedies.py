"""What to do where forward() does what no graph can hold; messages end with one of these, after a semicolon."""

BRANCH_ON_VALUES = (
    "a graph has no branches: compute both sides and choose with torch.where(condition, a, b), in a loop for a fixed "
    "number of steps; write a check that only raises as an assert, which is left out; and if the condition is the same "
    "in every call, pass it as an argument (True or False is built in)"
)
BRANCH_ON_SIZE = (
    "a graph serves every size: keep the side that is right for all sizes, or decide outside of forward() and pass the "
    "decision as an argument (True or False is built in)"
)
VALUES_IN_PYTHON = (
    "leave the conversion out, since a tensor computes like a number (x * x.max()), and use torch's functions on it; a "
    "number that is the same in every call can be computed before and passed as an argument (it is built in)"
)
FIXED_INTEGER = (
    "a graph has no loop over rows: compute for all rows at once (scatter, index_add, global_mean_pool, x[batch]); a "
    "number that is the same in every call can be passed as an argument (it is built in)"
)
CONTAINED = "compare instead, (batch == 3).any(), and choose with torch.where(condition, a, b)"
GRADIENTS = (
    "let forward(), or another method that method= names, return what is differentiated (the energy), prune that, and "
    "differentiate the compiled model outside: torch.autograd.grad(compiled(z, pos, ...).sum(), pos, create_graph=True)"
)
