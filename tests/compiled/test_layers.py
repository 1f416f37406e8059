"""Tools that go through modules of compiled models: hooks run or are refused, layers are real ones."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

import upscale_fx
from tests.comparison import assert_same
from tests.compiled.layered import MODELS, WAYS, compiled, taking_hooks
from tests.selection import every

ALL = list(product(MODELS, WAYS))


def leaves(gm):
    """Paths of modules without children that take hooks, beside containers of other graphs."""
    return [path for path in taking_hooks(gm) if not list(gm.get_submodule(path).children())]


def counted(gm, paths):
    """Counts of forward, pre- and backward hooks by path, filled by calls."""
    counts = {path: [0, 0, 0] for path in paths}

    def count(path, place):
        counts[path][place] += 1

    for path in paths:
        module = gm.get_submodule(path)
        module.register_forward_pre_hook(lambda *given, path=path: count(path, 0))
        module.register_forward_hook(lambda *given, path=path: count(path, 1))
        if type(module) is nn.Linear:
            module.register_full_backward_hook(lambda *given, path=path: count(path, 2))
    return counts


@pytest.mark.parametrize(("name", "way"), every(5, ALL))
def test_every_hook_runs_or_is_refused_by_the_name_of_its_module(name, way):
    gm, inputs = compiled(name, way)
    expected = gm(*inputs)
    paths = leaves(gm)
    for path, module in gm.named_modules():
        if path and path not in taking_hooks(gm):
            for method in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
                with pytest.raises(upscale_fx.PartError, match=f"^'{path}' is not called as a module"):
                    getattr(module, f"register_{method}")(print)
    counts = counted(gm, paths)
    actual = gm(*(value.requires_grad_() if value.is_floating_point() else value for value in inputs))
    actual.square().sum().backward()
    assert torch.allclose(actual, expected, rtol=1e-12)
    assert all(count[0] == count[1] > 0 for count in counts.values()), counts
    assert all(counts[path][2] for path in paths if type(gm.get_submodule(path)) is nn.Linear), counts


@pytest.mark.parametrize(("name", "way"), every(5, ALL))
def test_what_hooks_keep_is_not_overwritten_later(name, way):
    gm, inputs = compiled(name, way)
    kept = []
    for path in leaves(gm):
        gm.get_submodule(path).register_forward_hook(
            lambda module, given, out: kept.extend((t, t.clone()) for t in (*given, out) if torch.is_tensor(t))
        )
    with torch.no_grad():
        gm(*inputs)
    assert len(kept) > 1
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize("name", ["SAGE", "GCN", "GIN", "mixed"])
def test_hooks_see_what_the_layer_computes_and_may_change_it(name):
    gm, inputs = compiled(name, "prune")
    path = next(p for p, module in reversed(list(gm.named_modules())) if type(module) is nn.Linear)
    scaled = copy.deepcopy(gm)
    with torch.no_grad():
        for parameter in scaled.get_submodule(path).parameters(recurse=False):
            parameter.mul_(2)
    gm.get_submodule(path).register_forward_hook(lambda module, given, out: out * 2)
    assert torch.allclose(gm(*inputs), scaled(*inputs), rtol=1e-12)
    assert torch.allclose(copy.deepcopy(gm)(*inputs), scaled(*inputs), rtol=1e-12)
    for call in (upscale_fx.trace, upscale_fx.report, lambda gm: upscale_fx.prune(gm, 0.2)):
        with pytest.raises(upscale_fx.EditedGraphError, match=f"{path}.*change what it computes"):
            call(gm)


def test_hooks_that_observe_stay_on_their_graph():
    gm, inputs = compiled("SAGE", "compact")
    seen = []
    gm.convs.get_submodule("0").lin_l.register_forward_hook(lambda *given: seen.append(1))
    gm.register_forward_hook(lambda *given: seen.append(2))
    again = upscale_fx.optimize(gm)
    seen.clear()
    assert torch.allclose(again(*inputs), gm(*inputs), rtol=1e-12)
    assert seen == [1, 2]


def test_a_refusal_says_what_to_use():
    gm, _ = compiled("mixed", "inference")
    with pytest.raises(upscale_fx.PartError, match=r"use the modules in it that are called \(att.lin\); or use the"):
        gm.att.register_forward_hook(print)
    fused, _ = compiled("mixed", "prune")
    with pytest.raises(upscale_fx.PartError, match=r"upscale_fx\.compact"):
        fused.get_submodule("att.by_mode").register_forward_hook(print)
    assert "att.by_mode" in taking_hooks(upscale_fx.compact(fused))
    with pytest.raises(upscale_fx.PartError, match="'att' cannot be called alone"):
        fused.att(torch.ones(2, 2))


@pytest.mark.parametrize(("name", "way"), every(5, ALL))
def test_layers_are_those_that_recipes_look_for(name, way):
    gm, _ = compiled(name, way)
    torch.manual_seed(1)
    model = MODELS[name][0]()
    kinds = (nn.Embedding, nn.LayerNorm, nn.PReLU, nn.BatchNorm1d)
    for path, module in model.named_modules():
        given = gm.get_submodule(path) if path in dict(gm.named_modules()) else None
        if type(module).__name__ == "Linear" and given is not None:
            assert isinstance(given, nn.Linear) or path == "twice"  # compacted, its calls read it through copies
            assert way not in ("trace", "compact") or type(given) is nn.Linear or path == "twice"
            assert path == "twice" or given.weight.shape == (given.out_features, given.in_features)
        if isinstance(module, kinds) and given is not None and list(given.parameters()):
            assert type(given) is type(module)
    assert sum(isinstance(module, nn.Linear) for module in gm.modules()) > 0


@pytest.mark.parametrize("name", MODELS)
def test_initialisation_by_layer_type(name):
    gm, inputs = compiled(name)
    gm.apply(lambda module: nn.init.constant_(module.weight, 0.1) if isinstance(module, nn.Linear) else None)
    constant = [p for p in gm.parameters() if p.dim() == 2 and bool((p == 0.1).all())]
    assert len(constant) == sum(isinstance(module, nn.Linear) for module in gm.modules()) > 0
    own = [
        path
        for path, module in gm.named_modules()
        if type(module).__name__ == "Part" and list(module.parameters(False))
    ]
    for path in own:
        with pytest.raises(upscale_fx.PartError, match="Reset the model before it is compiled"):
            gm.get_submodule(path).reset_parameters()
    for module in gm.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    assert not [p for p in constant if bool((p == 0.1).all())]
    assert gm(*inputs).isfinite().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "way"), every(5, ALL))
def test_quantised_layers_run(name, way):
    gm, inputs = compiled(name, way)
    gm, inputs = gm.float(), [value.float() if value.is_floating_point() else value for value in inputs]
    quantised = quantize_dynamic(gm, {nn.Linear}, dtype=torch.qint8)
    layers = [path for path, module in gm.named_modules() if type(module) is nn.Linear]
    assert layers
    assert all("quantized" in type(quantised.get_submodule(path)).__module__ for path in layers)
    expected, actual = gm(*inputs), quantised(*inputs)
    assert 0 < (actual - expected).abs().max() < 0.1 * expected.abs().max()
    assert torch.equal(copy.deepcopy(quantised)(*inputs), actual)
    assert torch.equal(pickle.loads(pickle.dumps(quantised))(*inputs), actual)
    with pytest.raises(upscale_fx.EditedGraphError, match=r"replaced by .*quantized.*Linear"):
        upscale_fx.prune(quantised, 0.2)


def test_layers_that_an_edit_takes_apart_are_parts_again():
    gm, inputs = compiled("SAGE", "compact")
    call = next(node for node in gm.graph.nodes if "linear" in node.name)
    weight = next(node for node in call.all_input_nodes if node.op == "get_attr")
    layer = gm.get_submodule(str(weight.target).rpartition(".")[0])
    with gm.graph.inserting_before(call):
        call.replace_input_with(weight, gm.graph.call_function(torch.mul, (weight, 2.0)))
    handle = layer.register_forward_hook(print)
    with pytest.raises(upscale_fx.EditedGraphError, match="remove them before recompile"):
        gm.recompile()
    handle.remove()
    gm.recompile()
    with pytest.raises(upscale_fx.PartError):
        layer.register_forward_hook(print)
    expected = copy.deepcopy(gm)(*inputs)
    assert torch.equal(gm(*inputs), expected)


@pytest.mark.filterwarnings("ignore")
def test_layers_compile_in_one_graph():
    gm, inputs = compiled("mixed", "prune")
    whole = torch.compile(gm, fullgraph=True, dynamic=True, backend="eager")
    assert torch.allclose(whole(*inputs), gm(*inputs), rtol=1e-12)


def test_a_graph_whose_layer_was_wrapped_is_copied_and_saved():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    graph = upscale_fx.prune(model, 0.5, example_inputs=(x := torch.randn(9, 10),))
    expected = graph(x)
    graph.add_module("2", nn.Sequential(graph.get_submodule("2"), nn.Identity()))
    for held in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert_same(expected, held(x), 1e-6)  # a layer that is called pads no rows and columns: see memory.is_steady
    with pytest.raises(upscale_fx.EditedGraphError, match=r"'2\.weight', which this compiled graph reads"):
        upscale_fx.report(graph)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_layers_of_a_model_are_refused():
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    quantised = quantize_dynamic(model, {nn.Linear})
    for call in (upscale_fx.prune, upscale_fx.mask):
        with pytest.raises(upscale_fx.InputError, match=r"'0' \(Linear .*is quantised: .* Prune the model first"):
            call(quantised, 0.5, example_inputs=(torch.randn(9, 10),))
