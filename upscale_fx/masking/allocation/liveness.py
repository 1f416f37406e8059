"""The cost of a traced graph under masks, by the liveness analysis of compaction, without rewriting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.attention import attention_products, foldable
from upscale_fx.analysis.dataflow import Dataflow, analyse, needed, nonzero
from upscale_fx.analysis.entries import initial_levels, with_entries
from upscale_fx.analysis.heads import head_blocks
from upscale_fx.analysis.row_symbols import row_axes
from upscale_fx.analysis.size import counts_macs, macs_of
from upscale_fx.channels.positions import Mask
from upscale_fx.channels.relations import Contraction, Source
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.masking.allocation.call_rows import CallRows
from upscale_fx.masking.allocation.cost import Cost
from upscale_fx.masking.consumers.consumer import Consumer


@dataclass
class Liveness:
    """Costs of a graph under masks.

    Attributes:
        root: the traced graph.
        consumers: its consumers; there is one mask for each.
        rows: the row counts of one call.
    """

    root: CompiledGNN
    consumers: Sequence[Consumer]
    rows: CallRows
    flow: Dataflow = field(init=False)

    def __post_init__(self) -> None:
        self.flow = analyse(with_entries(self.root))
        for product in attention_products(self.flow):
            if foldable(self.flow, product) is not None:  # after compaction these logits read the layer before instead
                self.flow.relations[product.logits] = Source()
        self._levels = initial_levels(self.flow)
        self._blocks = head_blocks(self.flow)
        self._whole = dict(self.flow.values)
        # Compaction removes unread operands of a concatenation, and then repeats the liveness analysis.
        self._joined = {node for node in self.flow.nodes if node.target in (torch.cat, torch.concat, torch.concatenate)}

    def kept(self, removed: Sequence[Mask]) -> dict[fx.Node, Mask]:
        """The positions of every value that compaction would keep."""
        masked = self._masked(removed)
        for node, value in self._whole.items():
            if node.op == "get_attr" and isinstance(value[0], Tensor):
                new = masked.get(str(node.target), value[0])
                self.flow.values[node] = (new, new)
        self.flow.nonzero = nonzero(self.flow)
        return needed(self.flow, self._levels, self._blocks, self._joined)

    def _masked(self, removed: Sequence[Mask]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for consumer, mask in zip(self.consumers, removed, strict=True):
            if not mask.any():
                continue
            for cut in consumer.cuts:
                value = values.get(cut.target)
                value = self.root.get_parameter(cut.target).detach().clone() if value is None else value
                entries = cut.entries[mask].reshape(-1)
                index = torch.from_numpy(entries[entries >= 0]).to(value.device)
                values[cut.target] = value.reshape(-1).index_fill(0, index, 0).view(value.shape)
        return values

    def cost(self, removed: Sequence[Mask]) -> Cost:
        """The cost without these channels."""
        kept = self.kept(removed)
        params = held = macs = 0.0
        seen: set[str] = set()
        for node, mask in kept.items():
            if node.op == "get_attr" and node.target not in seen:
                value = self._whole[node][0]
                seen.add(str(node.target))
                if isinstance(value, nn.Parameter):
                    params += int(mask.sum())
                if isinstance(value, Tensor):
                    held += int(mask.sum()) * value.element_size()
            elif node.op == "call_module" and node.target not in seen:
                seen.add(str(node.target))
                share = float(mask.mean()) if len(mask) else 1.0
                for tensor in self.flow.module.get_submodule(str(node.target)).parameters():
                    params += share * tensor.numel()
                    held += share * tensor.numel() * tensor.element_size()
            macs += self._macs(node, kept)
        return Cost(params, held, macs)

    def _macs(self, node: fx.Node, kept: Mapping[fx.Node, Mask]) -> float:
        if not counts_macs(self.flow, node):
            return 0.0
        relation = self.flow.relations[node]
        whole = macs_of(self.flow, node) * self.rows.of(row_axes(self.flow.axes[node]))
        own = float(kept[node].mean())
        if isinstance(relation, Product):
            shares = [kept[side].mean() if side in kept else 1.0 for side in (relation.left, relation.right)]
            return whole * own * float(max(shares))
        assert isinstance(relation, Contraction | Convolution)
        return whole * own * (float(kept[relation.x].mean()) if relation.x in kept else 0.0)
