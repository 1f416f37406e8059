"""Finds the least-squares problems of a traced graph and numbers them in execution order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.reconstruction.find_joint import joint_problems
from upscale_fx.masking.reconstruction.find_single import single_problems
from upscale_fx.masking.reconstruction.joint import JointProblem
from upscale_fx.masking.reconstruction.problem import Problem
from upscale_fx.masking.reconstruction.replay import descendants
from upscale_fx.masking.reconstruction.single import SingleProblem


def find_problems(flow: Dataflow, consumers: Sequence[Consumer], eligible: Sequence[Mask]) -> list[Problem]:
    """One joint problem for all layers whose outputs are added, and one for every other consumer.

    Args:
        flow: the analysed graph.
        consumers: its consumers.
        eligible: for each consumer, the eligible channels. Consumers that neither lose channels nor read changed values
            are not part of joint problems.
    """
    place = {node: i for i, node in enumerate(flow.nodes)}
    sites = {site for c, mask in zip(consumers, eligible, strict=True) if mask.any() for site in c.sites}
    changing = descendants(flow.nodes, sites)
    joint = joint_problems(flow, consumers)
    terms = {term.consumer for problem in joint for term in problem.terms}
    problems: list[JointProblem | SingleProblem] = [
        *(_narrowed(problem, eligible, changing) for problem in joint),
        *single_problems(flow, consumers, terms),
    ]
    fitted = [problem for problem in problems if problem.calls]
    ordered = sorted(fitted, key=lambda problem: place[problem.last_node(place)])
    return [replace(problem, number=number) for number, problem in enumerate(ordered)]


def _narrowed(problem: JointProblem, eligible: Sequence[Mask], changing: Collection[fx.Node]) -> JointProblem:
    """A problem without the terms that neither lose channels nor read changed values."""
    terms = tuple(t for t in problem.terms if t.consumer < 0 or eligible[t.consumer].any() or t.x in changing)
    return replace(problem, terms=terms if any(t.consumer >= 0 for t in terms) else ())
