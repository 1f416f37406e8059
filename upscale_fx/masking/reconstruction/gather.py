"""Reads the rows of least-squares problems off a running model and adds up their moments."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_symbols import rows_of
from upscale_fx.masking.consumers.consumer import Reading, own_parameter
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.own import Own, flattened, rows_of_reading
from upscale_fx.masking.reconstruction.pairs import makes_pairs, pair_moments
from upscale_fx.masking.reconstruction.regressions import Joint
from upscale_fx.masking.reconstruction.replay import Replay
from upscale_fx.masking.reconstruction.shifts import as_felt
from upscale_fx.masking.reconstruction.solve import NotFittedError

#: Most rows that a batch contributes where there are more of them than nodes (edges, pairs); these are drawn at random.
SAMPLED_ROWS = 1 << 16

Problem = Joint | Own


def consumers_of(problem: Problem) -> set[int]:
    """The numbers of the consumers that have variables in a problem."""
    return {int(number) for number in problem.variables[..., 0].reshape(-1) if number >= 0}


def weight_of(problem: Problem, root: nn.Module) -> Tensor:
    """``[B, V, O]`` in float64: the weights a problem starts from."""
    if isinstance(problem, Own):
        return problem.weight(root)
    parts = []
    for term in problem.terms:
        flat = root.get_parameter(term.parameter).detach().reshape(-1)
        parts.append(flat[torch.from_numpy(term.entries.copy()).to(flat.device)].double().cpu())
    return torch.cat(parts)[None]


def last_node(problem: Problem, place: dict[fx.Node, int]) -> fx.Node:
    """The node after which all that a problem reads has been computed."""
    if isinstance(problem, Joint):
        return problem.target
    if problem.comparison is not None:
        return problem.comparison.shares
    return max(problem.reads, key=place.__getitem__)


def held_nodes(problem: Problem, lacking: bool = True) -> set[fx.Node]:
    """Values that have to stay until a problem is gathered; those of the target only for what it is ``lacking``."""
    if isinstance(problem, Own):
        found = {node for reading in problem.consumer.readings for node, _ in reading.factors}
        softmax = problem.comparison
        return found if softmax is None else found | {softmax.shares, softmax.index}
    held = {problem.target} if lacking else set()
    for term in problem.terms:
        if term.consumer >= 0 or term.path:
            held.add(term.x)
        for step, operand in term.path:
            held.update(node for node in step.all_input_nodes if node is not operand)
    return held


@torch.no_grad()
def gather(
    problem: Problem, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
) -> Tensor | None:
    """Add one batch to the moments of a problem; returns the rows of a target's terms ``[rows, 1, V]``.

    Without ``weight`` the inputs are those of the dense model, and nothing is lacking. With it they are those of the
    pruned model, whose weights still are ``weight``.

    Raises:
        NotFittedError: what was seen are no rows of a least-squares problem.
    """
    if isinstance(problem, Joint):
        x = _joint_rows(problem, replay, weight is not None)
        lacking = None
        if weight is not None:
            lacking = _difference(replay.dense[problem.target], replay.pruned[problem.target])
            lacking = lacking.reshape(-1, 1, lacking.shape[-1])
        pick, share = _sample(len(x), rows_of(flow.axes[problem.target]), problem.target.name, seed)
        moments.add(_taken(_real(x), pick), None if lacking is None else _taken(lacking, pick), share)
        return x
    for reading in problem.consumer.readings:
        _add_reading(problem, reading, moments, replay, flow, weight, seed)
    return None


def _add_reading(
    problem: Own, reading: Reading, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
) -> None:
    """Add what one call of a consumer reads in one batch."""
    if makes_pairs(reading, flow):
        pruned_values = None if weight is None else replay.pruned
        like = weight if weight is not None else moments.cross.new_ones(moments.cross.shape)
        moments.include(pair_moments(reading, problem.channels, replay.dense, pruned_values, flow, like))
        return
    node = reading.factors[0][0]
    count = flattened(replay.dense[node], flow, node).shape[0]
    pick, share = _sample(count, rows_of(flow.axes[node]), reading.node.name, seed)
    dense = _own_rows(problem, reading, replay, flow, pick, False)
    if weight is None:
        moments.add(dense, None, share)
        return
    pruned = _own_rows(problem, reading, replay, flow, pick, True)
    lacking = torch.einsum("rbc,bco->rbo", _difference(dense, pruned).double(), weight.to(dense.device))
    moments.add(pruned, lacking, share)


def _own_rows(
    problem: Own, reading: Reading, replay: Replay, flow: Dataflow, pick: Tensor | None, of_pruned: bool
) -> Tensor:
    """``[rows, B, V]``: what a call reads, and ones for a bias."""
    values = replay.pruned if of_pruned else replay.dense
    sizes = {flattened(values[node], flow, node).shape[0] for node, _ in reading.factors}
    if len(sizes) > 1:
        raise NotFittedError("its two operands have different rows")
    softmax = problem.comparison
    if softmax is not None:
        every = _real(rows_of_reading(reading, problem.channels, values, flow, None))
        return _taken(as_felt(every, replay.dense[softmax.shares], replay.dense[softmax.index]), pick)
    rows = _real(rows_of_reading(reading, problem.channels, values, flow, pick))
    return torch.cat([rows, rows.new_ones((*rows.shape[:2], 1))], dim=2) if problem.biases else rows


def _difference(dense: Tensor, pruned: Tensor) -> Tensor:
    if dense.shape != pruned.shape:
        raise NotFittedError("pruned before it, the model computes other rows than the dense one")
    return _real(dense) - pruned if dense.dtype in (torch.float32, torch.float64) else dense.float() - pruned.float()


def _real(rows: Tensor) -> Tensor:
    if not rows.is_floating_point():
        raise NotFittedError(f"what it reads is no real number but {rows.dtype}")
    return rows


def correct(problem: Problem, replay: Replay, rows: Tensor | None, change: Tensor) -> bool:
    """Let a run go on with weights that have changed by ``[B, V, O]``; False where it has to start again."""
    if isinstance(problem, Joint) and rows is not None:
        target = replay.pruned[problem.target]
        change = change[0].to(target)
        replay.pruned[problem.target] = target + (rows[:, 0] @ change).view(target.shape)
        return True
    return False


def _joint_rows(problem: Joint, replay: Replay, pruned: bool) -> Tensor:
    """``[rows, 1, V]``: what every term reads, taken along the rows to the target, side by side."""
    values = replay.pruned if pruned else replay.dense
    columns: list[Tensor] = []
    for term in problem.terms:  # biases come last
        if term.consumer < 0 and not term.path:
            columns.append(columns[0].new_ones((len(columns[0]), 1)))
            continue
        value = values[term.x]
        if term.consumer < 0:
            value = value.new_ones((*value.shape[:-1], 1))
        value = replay.along(term.path, value, pruned)
        columns.append(value.reshape(-1, value.shape[-1]))
    if len({len(part) for part in columns}) > 1:
        raise NotFittedError("its terms have different rows")
    return torch.cat(columns, dim=1)[:, None]


def _sample(count: int, symbol: str, name: str, seed: int) -> tuple[Tensor | None, float]:
    """Which rows to take (None: all) and how much each stands for."""
    if count <= SAMPLED_ROWS or symbol in ("N", "B"):
        return None, 1.0
    draw = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    pick = torch.randperm(count, generator=draw)[:SAMPLED_ROWS].sort().values
    return pick, count / SAMPLED_ROWS


def _taken(rows: Tensor, pick: Tensor | None) -> Tensor:
    return rows if pick is None else rows[pick.to(rows.device)]


def write(problem: Problem, root: nn.Module, weight: Tensor) -> set[str]:
    """Put fitted weights ``[B, V, O]`` into the parameters; returns the names of those changed."""
    if isinstance(problem, Own):
        return _write_own(problem, root, weight)
    start, changed = 0, set()
    for term in problem.terms:
        part = weight[0, start : start + len(term.entries)]
        start += len(term.entries)
        put(root, term.parameter, torch.from_numpy(term.entries.copy()), part)
        changed.add(term.parameter)
    return changed


def put(root: nn.Module, name: str, entries: Tensor, value: Tensor) -> None:
    """Set entries of a parameter, in place."""
    parameter = root.get_parameter(name)
    with torch.no_grad():
        flat = parameter.reshape(-1).clone()
        flat[entries.to(flat.device)] = value.to(flat)
        parameter.copy_(flat.view(parameter.shape))


def put_back(root: nn.Module, name: str, value: Tensor) -> None:
    """Set a whole parameter by the name it has after ``torch.nn.utils.prune.remove``, in place."""
    parameter = own_parameter(root, name)
    with torch.no_grad():
        parameter.copy_(value.to(parameter))


def _write_own(problem: Own, root: nn.Module, weight: Tensor) -> set[str]:
    start, count = 0, problem.channels.shape[1]
    for number, (name, entries) in enumerate(problem.stored):
        part = weight[:, :, start : start + entries.shape[2]]
        put(root, name, torch.from_numpy(entries.copy()), part[:, :count])
        if problem.biases:
            own, places = problem.biases[number]
            put(root, own, torch.from_numpy(places.copy()), part[0, count])
        start += entries.shape[2]
    for cut in problem.scaled:
        flat = root.get_parameter(cut.target).detach().reshape(-1)
        rows = torch.from_numpy(cut.entries[problem.channels])
        here = rows >= 0
        scaled = flat[rows.clamp(min=0).to(flat.device)].double().cpu() * weight
        put(root, cut.target, rows[here], scaled[here])
    return parameters_of(problem)


def parameters_of(problem: Problem) -> set[str]:
    """The parameters whose entries a problem may set."""
    if isinstance(problem, Joint):
        return {term.parameter for term in problem.terms}
    return {name for name, _ in (*problem.stored, *problem.biases)} | {cut.target for cut in problem.scaled}


def shapes(problems: Sequence[Problem], root: nn.Module) -> list[Moments]:
    """Empty moments for each problem."""
    return [Moments.zeros(*weight_of(problem, root).shape) for problem in problems]
