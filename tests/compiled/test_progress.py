"""Bars of long calls: shown on a terminal from two seconds on, with the stage the call is in, and gone afterwards."""

import io

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from upscale_fx.compiled import progress
from upscale_fx.compiled.progress import advance, stage, stages


class Terminal(io.StringIO):
    """Keeps what is written to it."""

    def isatty(self):
        return True


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = GCNConv(6, 8), GCNConv(8, 3)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


X, EDGES = torch.randn(9, 6), torch.randint(9, (2, 20))
CALLS = {
    "trace": lambda **o: upscale_fx.trace(Small(), (X, EDGES)),
    "mask": lambda **o: upscale_fx.mask(Small(), 0.5, example_inputs=(X, EDGES), **o),
    "compact": lambda **o: upscale_fx.compact(upscale_fx.mask(Small(), 0.5, progress=False), example_inputs=(X, EDGES)),
    "optimize": lambda **o: upscale_fx.optimize(Small(), example_inputs=(X, EDGES)),
    "prune": lambda **o: upscale_fx.prune(Small(), 0.5, example_inputs=(X, EDGES), **o),
    "prune, calibrated": lambda **o: upscale_fx.prune(Small(), 0.5, calibration=(X, EDGES), **o),
}
STAGES = {"mask": "choosing channels", "compact": "CompactChannels", "optimize": "FusePropagate", "prune": "analysing"}


def screen_in(monkeypatch):
    """A terminal in the place of standard error; no fixture, since pytest puts its own there after the setup."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


@pytest.mark.parametrize("call", CALLS)
def test_a_long_call_shows_its_stages_and_leaves_nothing(call, monkeypatch):
    screen = screen_in(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    CALLS[call]()
    name = call.split(",")[0]
    assert f"{name}: tracing" in screen.getvalue()
    assert f"{name}: {STAGES.get(call, 'tracing')}" in screen.getvalue()
    assert screen.getvalue().split("\r")[-2].strip() == ""  # the line is cleared


@pytest.mark.parametrize("call", CALLS)
def test_a_short_call_shows_no_stages(call, monkeypatch):
    screen = screen_in(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 3600.0)
    CALLS[call]()
    assert f"{call.split(',')[0]}: " not in screen.getvalue()


@pytest.mark.parametrize("call", ["mask", "prune", "prune, calibrated"])
def test_without_progress_nothing_is_shown(call, monkeypatch):
    screen = screen_in(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    CALLS[call](progress=False)
    assert screen.getvalue() == ""


def test_without_a_terminal_nothing_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    CALLS["prune"]()
    assert capsys.readouterr().err == ""


def test_a_stage_with_a_total_shows_how_far_it_is(monkeypatch):
    screen = screen_in(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with stages("outer"), stages("inner"):
        stage("counting", total=4)
        for _ in range(4):
            advance()
    assert "outer: counting:   0%" in screen.getvalue()
    assert "inner" not in screen.getvalue()


def test_outside_a_call_stages_show_nothing(monkeypatch):
    screen = screen_in(monkeypatch)
    stage("alone", total=2)
    advance()
    assert screen.getvalue() == ""
