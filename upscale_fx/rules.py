"""What rules of your own need: ``register``, the :class:`Operation` they take and the relations they return.

docs/rules.md shows how to write one. The families of ready rules are modules here too (``rules.pointwise``, ...).
"""

from upscale_fx.channels.positions import Flow
from upscale_fx.channels.relations import (
    Barrier,
    Contraction,
    Movement,
    OneOfSeveral,
    Pointwise,
    Reduction,
    Relation,
    Source,
    Structure,
)
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Lookup, Product, Recurrence
from upscale_fx.channels.relations.regrouping import Regrouping
from upscale_fx.channels.rules import (
    REGISTRY,
    Operation,
    approximate,
    convolution,
    linear,
    message_passing,
    norm,
    per_channel,
    pointwise,
    products,
    reduce,
    register,
    regrouping,
    relation_of,
    shape,
)

__all__ = [
    "REGISTRY",
    "Barrier",
    "Contraction",
    "Convolution",
    "Flow",
    "Lookup",
    "Movement",
    "OneOfSeveral",
    "Operation",
    "Pointwise",
    "Product",
    "Recurrence",
    "Reduction",
    "Regrouping",
    "Relation",
    "Source",
    "Structure",
    "approximate",
    "convolution",
    "linear",
    "message_passing",
    "norm",
    "per_channel",
    "pointwise",
    "products",
    "reduce",
    "register",
    "regrouping",
    "relation_of",
    "shape",
]
