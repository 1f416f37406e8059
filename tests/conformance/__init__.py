"""Every layer of torch_geometric.nn with channels, in the ways its documentation calls it: one line a configuration."""

from tests.conformance import (
    aggrs,
    basic_models,
    convs_a_f,
    convs_g_l,
    convs_m_r,
    convs_rgcn,
    convs_s_z,
    dense,
    hetero,
    models,
    norms,
    pools,
    user_convs,
)
from tests.conformance.case import Case

CASES: list[Case] = [
    *convs_a_f.CASES,
    *convs_g_l.CASES,
    *convs_m_r.CASES,
    *convs_rgcn.CASES,
    *convs_s_z.CASES,
    *user_convs.CASES,
    *hetero.CASES,
    *norms.CASES,
    *aggrs.CASES,
    *dense.CASES,
    *pools.CASES,
    *basic_models.CASES,
    *models.CASES,
]
