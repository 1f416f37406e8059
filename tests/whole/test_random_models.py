"""Random small models with random zeros in their weights: traced, compacted, pruned they compute what they computed.

``tests/random_models`` has the grammar. UPSCALE_FX_EXAMPLES says how many programs to try in total (30; `make test-all`
has 60, `make nightly` 10200) and UPSCALE_FX_SEED tries others. A failure shrinks to a short program and prints it as
the module it stands for.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.random_models import programs
from tests.random_models.check import pruned_and_masked, traced_and_compacted

EXAMPLES = int(os.environ.get("UPSCALE_FX_EXAMPLES", "30"))
SEED = os.environ.get("UPSCALE_FX_SEED")

random_programs = settings(
    max_examples=EXAMPLES // 2,
    deadline=None,
    derandomize=SEED is None,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
# Torch warns of what drawn models do to a graph without edges, and ours say that heads keep a few channels more.
pytestmark = pytest.mark.filterwarnings("ignore")
other_seed = seed(int(SEED)) if SEED else lambda test: test
#: Amounts for some consumers alone: what others read stays in place.
SOME, OTHERS = {"*": 0.5, "*[02468]*": 0.0}, {"*": 0.0, "*[02468]*": 0.5}


@other_seed
@random_programs
@given(programs())
def test_traced_and_compacted_equal_the_model(program):
    traced_and_compacted(program)


@other_seed
@random_programs
@given(
    st.booleans().flatmap(lambda zeros: programs(zeros=zeros)),
    st.sampled_from([0.5, 0.25, 0.75, SOME, 0.9, OTHERS]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["l2", "l1", "random", "fpgm", "lamp"]),
    st.sampled_from([1, 1, 2]),
)
def test_pruned_equals_masked(program, amount, constrained, inputs, scope, criterion, round_to):
    pruned_and_masked(
        program, amount, constrained=constrained, inputs=inputs, scope=scope, criterion=criterion, round_to=round_to
    )
