"""Both kinds of least-squares problems through their one face: weights, rows, corrections and writing."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv, SAGEConv, TransformerConv

import upscale_fx
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.analysis.propagations import find_propagations
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.reconstruction.find_problems import find_problems
from upscale_fx.masking.reconstruction.joint import JointProblem
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.problem import consumers_of
from upscale_fx.masking.reconstruction.replay import Replay
from upscale_fx.masking.reconstruction.single import SingleProblem
from upscale_fx.masking.reconstruction.solve import fit, normal_equations

WIDTH, HIDDEN, OUT = 6, 8, 4


class Convolutions(nn.Module):
    """A linear layer and convolutions, with tanh between them."""

    def __init__(self, *convs):
        super().__init__()
        self.first, self.convs = nn.Linear(WIDTH, HIDDEN), nn.ModuleList(convs)

    def forward(self, x, edge_index):
        x = self.first(x)
        for conv in self.convs:
            x = conv(x.tanh(), edge_index)
        return x


class Recurrent(nn.Module):
    """An LSTM over two rows of every node."""

    def __init__(self):
        super().__init__()
        self.first, self.lstm = nn.Linear(WIDTH, HIDDEN), nn.LSTM(HIDDEN, OUT, batch_first=True)

    def forward(self, x, edge_index):
        x = self.first(x).tanh()
        return self.lstm(torch.stack([x, x.roll(1, 0)], dim=1))[0].sum(dim=1)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, OUT)

    def forward(self, x, edge_index):
        x = self.first(x).tanh()
        return self.shared(x) * self.shared(x.sin())


class Dense(nn.Module):
    """Attention between all pairs of nodes."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, HIDDEN) for _ in range(3))

    def forward(self, x, edge_index):
        return (self.query(x) @ self.key(x).T).softmax(dim=-1) @ self.value(x)


#: Models, with how many problems of each kind they have: joint ones and single ones.
MODELS = {
    "a sum of two layers": (lambda: Convolutions(SAGEConv(HIDDEN, OUT)), (2, 0)),
    "a layer before the aggregation": (lambda: Convolutions(GCNConv(HIDDEN, HIDDEN), GCNConv(HIDDEN, OUT)), (3, 0)),
    "an attention vector": (lambda: Convolutions(GATv2Conv(HIDDEN, OUT, heads=2)), (3, 1)),
    "queries and keys": (lambda: Convolutions(TransformerConv(HIDDEN, OUT, heads=2)), (5, 1)),
    "all pairs": (Dense, (3, 1)),
    "a recurrent module": (Recurrent, (1, 1)),
    "a layer called twice": (Twice, (1, 1)),
}


class Case:
    """A model, a batch for it, and its problems where every channel may go."""

    def __init__(self, name):
        torch.manual_seed(0)
        make, self.kinds = MODELS[name]
        given = torch.randn(30, WIDTH, dtype=torch.float64), torch.randint(30, (2, 90))
        self.root = upscale_fx.trace(make().double().eval(), given)
        self.flow = analyse(self.root)
        self.consumers = survey(self.flow).consumers
        self.problems = find_problems(self.flow, self.consumers, [c.hidden | True for c in self.consumers])
        self.place = {node: i for i, node in enumerate(self.flow.nodes)}
        self.arguments = dict(zip(("x", "edge_index"), given, strict=True))

    def replay(self, pruned, problem, changed=(), later=()):
        """A run up to where the rows of a problem have been computed; ``later``: values that are needed after it."""
        held = problem.held_nodes() | set(later)
        replay = Replay(self.root, pruned, changed, self.arguments, find_propagations(self.flow), held)
        replay.advance(problem.last_node(self.place))
        return replay

    def gathered(self, problem, pruned, weight):
        """The moments of a problem, and its rows."""
        moments = Moments.for_weight(problem.weight(self.root))
        return moments, problem.gather(moments, self.replay(pruned, problem), self.flow, weight, 0)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    return Case(request.param)


def test_every_consumer_is_part_of_one_problem_numbered_in_execution_order(case):
    kinds = [sum(isinstance(problem, kind) for problem in case.problems) for kind in (JointProblem, SingleProblem)]
    assert tuple(kinds) == case.kinds
    assert [problem.number for problem in case.problems] == list(range(len(case.problems)))
    last = [case.place[problem.last_node(case.place)] for problem in case.problems]
    assert last == sorted(last)
    calls = [call for problem in case.problems for call in problem.calls]
    assert sorted(calls, key=case.place.get) == sorted((s for c in case.consumers for s in c.sites), key=case.place.get)
    numbers = [number for problem in case.problems for number in consumers_of(problem)]
    assert sorted(numbers) == list(range(len(case.consumers)))


def test_writing_the_weights_of_the_dense_model_changes_nothing(case):
    working = copy.deepcopy(case.root)
    for problem in case.problems:
        weight = problem.weight(working)
        assert weight.shape[:2] == problem.variables.shape[:2]
        assert problem.write(working, weight) <= problem.parameters
    for name, value in case.root.named_parameters():
        assert torch.equal(working.get_parameter(name), value), name


def test_the_dense_model_lacks_nothing_of_itself(case):
    """Its rows are the same with weights and without, and the best weights are those that it has."""
    for problem in case.problems:
        weight = problem.weight(case.root)
        observed, _ = case.gathered(problem, case.root, None)
        moments, _ = case.gathered(problem, copy.deepcopy(case.root), weight)
        assert observed.rows == moments.rows > 0
        assert torch.equal(observed.gram, moments.gram)
        assert not moments.cross.any()
        assert not moments.error
        assert observed.gram.shape == (*problem.variables.shape[:2], problem.variables.shape[1])
        fitted = fit(*normal_equations(moments, weight), torch.ones_like(weight, dtype=torch.bool))
        torch.testing.assert_close(fitted, weight)


def test_what_changed_weights_change_is_written_to_the_model_and_added_to_a_run(case):
    draw = torch.Generator().manual_seed(1)
    for problem in case.problems:
        working, weight = copy.deepcopy(case.root), problem.weight(case.root)
        before = {name: value.clone() for name, value in working.named_parameters()}
        later = set() if problem.target is None else {problem.target}
        run = case.replay(working, problem, changed=problem.calls, later=later)
        rows = problem.gather(Moments.for_weight(weight), run, case.flow, weight, 0)
        written = problem.write(working, weight + torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
        assert {name for name, old in before.items() if not torch.equal(working.get_parameter(name), old)} == written
        assert problem.correct(run, rows, problem.weight(working) - weight) == (problem.target is not None)
        if problem.target is not None:
            changed = {node for node in case.flow.nodes if node.op == "get_attr" and node.target in written}
            again = case.replay(working, problem, changed=changed, later=later)
            torch.testing.assert_close(run.pruned[problem.target], again.pruned[problem.target])
