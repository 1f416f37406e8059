"""Fine-tuning on batches, in eval mode, with an optimizer that goes on, on a published graph; and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import prune_gnn
import upscale_fx
from tests import zoo
from tests.selection import only
from tests.training.tuned import DATA, EDGES, X, Y, cross_entropy, dense, loss_of, pruned, quiet
from upscale_fx.errors import InputError, UpscaleWarning
from upscale_fx.models import SAGE
from upscale_fx.training.finetune import finetune
from upscale_fx.training.transfer_optimizer import transfer_optimizer

pytestmark = pytest.mark.usefixtures("seeded")
STORED = prune_gnn.STORED if (prune_gnn.STORED / "load.py").is_file() else None


# Graphs for eval() only ----------------------------------------------------------------------------------------------


def test_a_graph_for_inference_is_trained_in_eval_with_a_warning():
    compiled = upscale_fx.optimize(upscale_fx.compact(upscale_fx.mask(dense(), 0.5)), inference=True)
    before = loss_of(compiled)
    with pytest.warns(UpscaleWarning, match=r"trained in eval\(\), where dropout is off.*inference=True") as caught:
        finetune(compiled, DATA, cross_entropy, 20, lr=0.01, **quiet)
    assert caught[0].filename == __file__
    assert loss_of(compiled) < before
    assert not compiled.training


# Batches -------------------------------------------------------------------------------------------------------------


def test_loaders_give_batches():
    graphs = [
        Data(x=torch.randn(6, 12), edge_index=torch.randint(6, (2, 10)), y=torch.tensor([i % 2])) for i in range(9)
    ]
    compiled = upscale_fx.prune(zoo.ZOO["pool-mean"].build(), 0.5)
    steps = []

    def loss(output, batch):
        steps.append(batch.num_graphs)
        return F.cross_entropy(output, batch.y)

    result = finetune(compiled, DataLoader(graphs, batch_size=4), loss, 2, **quiet)
    assert steps == [4, 4, 1] * 5
    assert len(result.history) == 3


@pytest.mark.parametrize(
    ("batches", "loss"),
    [
        ([DATA, DATA], cross_entropy),
        ((X, EDGES), lambda out, batch: F.cross_entropy(out, Y)),
        ({"x": X, "edge_index": EDGES}, lambda out, batch: F.cross_entropy(out, Y[: len(batch["x"])])),
        ([(X, EDGES)], lambda out, batch: F.cross_entropy(out, Y)),
    ],
    ids=["graphs", "tuple", "dict", "list"],
)
def test_every_kind_of_batch_trains(batches, loss):
    compiled = pruned()
    before = loss_of(compiled)
    finetune(compiled, batches, loss, 5, lr=0.01, **quiet)
    assert loss_of(compiled) < before


def test_a_transform_gives_arguments_once_for_model_and_teacher():
    teacher, drawn = dense(), []

    def transform(batch):
        drawn.append(torch.rand_like(batch[0]))
        return batch[0] + drawn[-1], batch[1]

    compiled = pruned(teacher, 0.25)
    inputs = []
    teacher.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    finetune(compiled, [(X, EDGES, Y)], lambda out, batch: F.cross_entropy(out, batch[2]), 1, teacher=teacher,
             transform=transform, **quiet)  # fmt: skip
    assert len(drawn) == len(inputs) == 3
    assert all(torch.equal(given, X + noise) for given, noise in zip(inputs, drawn, strict=True))


def test_a_generator_serves_one_epoch():
    compiled = pruned()
    with pytest.raises(InputError, match=r"a generator gives its batches once, and 2 epochs .* pass a list"):
        finetune(compiled, (DATA for _ in range(3)), cross_entropy, 2, **quiet)
    drawn = []

    def draw():
        for number in range(3):
            drawn.append(number)
            yield DATA

    result = finetune(compiled, draw(), cross_entropy, 1, **quiet)
    assert len(result.history) == 2
    assert drawn == [0, 1, 2], "scored, stepped and scored on the same batches"
    finetune(compiled, draw(), cross_entropy, 1, validate=lambda model: 0.0, **quiet)
    assert drawn == [0, 1, 2] * 2


def test_no_batches_are_an_error():
    with pytest.raises(InputError, match="a list gave no batches"):
        finetune(pruned(), [], cross_entropy, **quiet)


# Optimizers ----------------------------------------------------------------------------------------------------------


def test_a_transferred_optimizer_goes_on():
    model = dense()
    old = torch.optim.AdamW(model.parameters(), lr=0.01)
    finetune(model, DATA, cross_entropy, 5, optimizer=old, **quiet)
    compiled = pruned(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    finetune(compiled, DATA, cross_entropy, 3, optimizer=new, **quiet)
    assert {float(new.state[parameter]["step"]) for parameter in compiled.parameters()} == {8.0}


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"nothing to train towards: pass loss_fn\(output, batch\), a teacher"),
        ({"loss_fn": cross_entropy, "epochs": 0}, "epochs must be at least 1, got 0"),
        ({"loss_fn": cross_entropy, "patience": 0}, "patience must be at least 1"),
        ({"loss_fn": cross_entropy, "teacher_weight": 1.5}, "teacher_weight must be between 0 and 1"),
        ({"loss_fn": cross_entropy, "temperature": 0}, "temperature must be a positive number"),
        ({"loss_fn": lambda out, batch: out}, r"a tensor with one number, got one of shape \[40, 5\]"),
        ({"loss_fn": lambda out, batch: 3.0}, "a tensor with one number, got a float"),
        ({"loss_fn": lambda out, batch: out.detach().sum()}, "does not depend on any parameter"),
        ({"loss_fn": cross_entropy, "batches": Data(x=X, y=Y)}, "needs 'edge_index'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused(options, message):
    given = {"batches": DATA, **options, **quiet}
    with pytest.raises(InputError, match=message):
        finetune(pruned(), **given)


def test_a_model_without_anything_to_train_is_refused():
    compiled = pruned().requires_grad_(False)
    with pytest.raises(InputError, match="there is nothing to train"):
        finetune(compiled, DATA, cross_entropy, **quiet)


def test_an_optimizer_of_the_model_before_pruning_is_refused():
    model = dense()
    with pytest.raises(InputError, match=r"transfer_optimizer\(optimizer, model, compiled\)"):
        finetune(pruned(model), DATA, cross_entropy, optimizer=torch.optim.Adam(model.parameters()), **quiet)


def test_a_model_is_not_its_own_teacher():
    compiled = pruned()
    with pytest.raises(InputError, match="the teacher is the model itself"):
        finetune(compiled, DATA, teacher=compiled, **quiet)


# A published graph ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", only([], ["generated", "cora"] if STORED else ["generated"]))
def test_accuracy_comes_back(name):
    """Train, prune three quarters away, distil on the training nodes, pick the epoch by the validation nodes."""
    data = prune_gnn.load_graph(name, STORED)
    model = SAGE(data.num_features, 32, int(data.y.max()) + 1)

    def accuracy(one, mask=data.val_mask):
        return float((one(data.x, data.edge_index).argmax(-1) == data.y)[mask].float().mean())

    def loss(output, batch):
        return F.cross_entropy(output[batch.train_mask], batch.y[batch.train_mask])

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    finetune(model, data, loss, 40, optimizer=optimizer, validate=accuracy, **quiet)
    model.eval()
    compiled = upscale_fx.prune(model, 0.75)
    result = finetune(compiled, data, loss, 20, teacher=model, validate=accuracy, patience=10,
                      optimizer=transfer_optimizer(optimizer, model, compiled), **quiet)  # fmt: skip
    assert accuracy(compiled.eval()) == pytest.approx(result.history[result.best].score)
    assert result.history[result.best].score >= result.history[0].score
    assert accuracy(compiled) >= accuracy(model) - 0.05
