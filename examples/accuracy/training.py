"""Trained dense models: each is trained once and stored in a file."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from accuracy.data import load_data
from accuracy.workloads import NodeWorkload, Workload


def train_dense(workload: Workload, seed: int, store: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained dense model in ``eval()``, from its file if there is one; else train and store it.

    Args:
        workload: the model and its data.
        seed: seed of weights and dropout.
        store: folder whose `dense` folder has the files; a file of another recipe is replaced.

    Returns:
        The model, and its checkpoint: `state`, its state dictionary; `recipe`, how it was trained; `epochs` and
        `seconds`, how long; `reused`, whether it came from a file.
    """
    path = store / "dense" / f"{workload.data}-{workload.model}-{seed}.pt"
    torch.manual_seed(seed)
    model = workload.build()
    if path.is_file():
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        if checkpoint["recipe"] == asdict(workload.recipe):
            model.load_state_dict(checkpoint["state"])
            return model.eval(), {**checkpoint, "reused": True}
    start = time.perf_counter()
    epochs = workload.train(model)
    checkpoint = {
        "state": model.state_dict(),
        "recipe": asdict(workload.recipe),
        "epochs": epochs,
        "seconds": time.perf_counter() - start,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")  # so that a run stopped here leaves no broken checkpoint
    torch.save(checkpoint, unfinished)
    unfinished.replace(path)
    return model, {**checkpoint, "reused": False}


def load_dense(
    model_name: str, graph_name: str, seed: int = 0, store: Path | str = "results", root: Path | None = None
) -> tuple[nn.Module, Data]:
    """Return a trained dense model in ``eval()`` and its graph, with normalised features; trains it if needed.

    Args:
        model_name: one of `accuracy.workloads.MODELS`.
        graph_name: one of `accuracy.data.GRAPHS`.
        seed: seed of weights and dropout.
        store: folder whose `dense` folder has the trained models.
        root: folder of stored graphs with a load.py; the one beside the repository by default.
    """
    graph = load_data(graph_name, root)
    return train_dense(NodeWorkload(model_name, graph), seed, Path(store))[0], graph.data
