"""PyG's explainers: the masked model takes them all; a compiled one takes those of features, and refuses the others."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer

import upscale_fx
from tests.comparison import assert_same
from tests.selection import every

X = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
EDGES = torch.stack([torch.arange(27) % 9, torch.arange(27) * 4 % 9])
MODELS = {
    "GCN": lambda: gnn.GCN(8, 16, 2, 4),
    "SAGE": lambda: gnn.GraphSAGE(8, 16, 2, 4),
    "GIN": lambda: gnn.GIN(8, 16, 2, 4),
    "GAT": lambda: gnn.GAT(8, 16, 2, 4),
    "GATv2": lambda: gnn.GAT(8, 16, 2, 4, v2=True),
}


def explained(model, algorithm, **masks):
    torch.manual_seed(0)
    config = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}
    explainer = Explainer(model, algorithm, explanation_type="model", model_config=config, **masks)
    return explainer(X, EDGES, index=2)


def seeded(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.mark.parametrize("name", every(3, MODELS))
def test_features_are_explained_alike(name):
    masked, compiled = upscale_fx.mask(seeded(name), 0.5), upscale_fx.prune(seeded(name), 0.5)
    alike = [explained(m, GNNExplainer(epochs=20), node_mask_type="attributes") for m in (masked, compiled)]
    assert_same(*(explanation.node_mask for explanation in alike), 1e-4)


@pytest.mark.parametrize("name", every(3, MODELS))
@pytest.mark.parametrize("fuse", [True, False])
def test_masks_of_edges_need_the_layers_of_the_masked_model(name, fuse):
    compiled = upscale_fx.prune(seeded(name), 0.5, fuse=fuse)
    with pytest.raises(ValueError, match="gradients for edges"):
        explained(compiled, GNNExplainer(epochs=2), node_mask_type="attributes", edge_mask_type="object")
    masked = upscale_fx.mask(seeded(name), 0.5)
    found = explained(masked, GNNExplainer(epochs=2), node_mask_type="attributes", edge_mask_type="object")
    assert found.edge_mask.abs().sum() > 0


@pytest.mark.parametrize("name", ["GAT", "GATv2"])
def test_attention_needs_the_layers_of_the_masked_model(name):
    with pytest.raises(ValueError, match="attention coefficients"):
        explained(upscale_fx.prune(seeded(name), 0.5), AttentionExplainer(), edge_mask_type="object")
    assert explained(upscale_fx.mask(seeded(name), 0.5), AttentionExplainer(), edge_mask_type="object").edge_mask.any()
