"""The HTTP example: answers, changes, what it refuses, and that simultaneous questions are answered together."""

import asyncio
import json

import pytest
import torch
from torch_geometric.nn.models import GraphSAGE

import upscale_fx

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
serve_http = pytest.importorskip("serve_http")

X, EDGES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(80).remainder(40).view(2, 40)


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model = GraphSAGE(6, 8, 2, 3).eval()
    return upscale_fx.optimize(upscale_fx.prune(model, 0.5, example_inputs=(X, EDGES)), inference=True).eval()


@pytest.fixture
def app(compiled):
    return serve_http.create_app(upscale_fx.Server(compiled, X, EDGES.roll(1, 1)))


async def call(app, method, path, body=None, chunks=1):
    """Send one request to the application; return the status, the headers and the body."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    size = -(-len(raw) // chunks) or 1
    parts = [raw[at : at + size] for at in range(0, len(raw), size)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "scheme": "http", "server": ("127.0.0.1", 80), "root_path": "",
        "client": ("127.0.0.1", 1), "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    await app(scope, receive, send)
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(message.get("body", b"") for message in rest)


def running(app, story):
    """Run a story while the application is up."""

    async def run():
        async with app.router.lifespan_context(app):
            return await story()

    return asyncio.run(run())


def test_answers_are_those_of_the_graph_as_it_is(app, compiled):
    server = app.state.service.server

    async def story():
        first = await call(app, "POST", "/nodes", {"ids": [3, 5, 3]})
        changed = await call(app, "POST", "/edges", {"add": [[1, 3], [2, 3]], "remove": []})
        return first, changed, await call(app, "POST", "/nodes", {"ids": [3]}), server.inputs()

    before, changed, after, inputs = running(app, story)
    assert [found[0] for found in (before, changed, after)] == [200, 200, 200]
    assert json.loads(changed[2])["version"] == json.loads(after[2])["version"] > json.loads(before[2])["version"]
    with torch.no_grad():
        now = compiled(*inputs)
    assert json.loads(after[2])["outputs"] == [now[3].tolist()]
    rows = json.loads(before[2])["outputs"]
    assert rows[0] == rows[2] != json.loads(after[2])["outputs"][0]


def test_simultaneous_questions_are_answered_together_and_a_wrong_one_alone_fails(app):
    async def story():
        questions = [[node] for node in range(8)] + [[99]] + [[node, node + 1] for node in range(8)]
        return await asyncio.gather(*(call(app, "POST", "/nodes", {"ids": ids}) for ids in questions))

    found = running(app, story)
    assert [status for status, _, _ in found] == [200] * 8 + [409] + [200] * 8
    assert "there is no node 99" in found[8][2].decode()
    assert [len(json.loads(body)["outputs"]) for _, _, body in found[9:]] == [2] * 8
    service = app.state.service
    assert service.questions == 17
    assert service.batches < 17


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/nodes", {"ids": []}, 422, "at least 1"),
        ("/nodes", {"ids": [-1]}, 422, "greater than or equal to 0"),
        ("/nodes", {"ids": [1.5]}, 422, "integer"),
        ("/nodes", {"ids": ["1"]}, 422, "integer"),
        ("/nodes", {"ids": [1], "more": 2}, 422, "Extra inputs"),
        ("/nodes", {"ids": [0] * 4097}, 422, "at most 4096"),
        ("/nodes", b"{", 422, "JSON"),
        ("/nodes", {"ids": [40]}, 409, "there is no node 40"),
        ("/edges", {"add": [[1, 2, 3]]}, 422, "at most 2"),
        ("/edges", {"add": [[1, 40]]}, 409, "there is no node 40"),
        ("/edges", {"add": [[1, 2]], "remove": [[0, 20]]}, 409, "no edge from node 0 to node 20"),
    ],
)
def test_bad_bodies_are_refused_and_change_nothing(app, path, body, status, text):
    async def story():
        return await call(app, "POST", path, body)

    found = running(app, story)
    assert found[0] == status
    assert text in found[2].decode()
    assert app.state.service.server.version == 0


@pytest.mark.parametrize("chunks", [1, 9])
def test_long_bodies_are_refused_before_they_are_read(app, chunks):
    async def story():
        return await call(app, "POST", "/nodes", b" " * (serve_http.MOST_BYTES + 1), chunks)

    assert running(app, story)[0] == 413


def test_too_many_questions_are_told_to_come_back(app, monkeypatch):
    monkeypatch.setattr(serve_http, "MOST_WAITING", 2)

    async def story():
        return await asyncio.gather(*(call(app, "POST", "/nodes", {"ids": [node]}) for node in range(20)))

    found = running(app, story)
    refused = [headers for status, headers, _ in found if status == 503]
    assert 0 < len(refused) < 20
    assert refused[0][b"retry-after"] == b"1"
    assert {status for status, _, _ in found} == {200, 503}


def test_metrics_and_health(app):
    async def story():
        await call(app, "POST", "/nodes", {"ids": [1, 2]})
        await call(app, "POST", "/nodes", {"ids": [77]})
        return await call(app, "GET", "/metrics"), await call(app, "GET", "/healthz")

    metrics, health = running(app, story)
    lines = dict(line.rsplit(" ", 1) for line in metrics[2].decode().splitlines() if not line.startswith("#"))
    assert metrics[1][b"content-type"].startswith(b"text/plain; version=0.0.4")
    assert lines["upscale_fx_nodes_total"] == "2"
    assert lines["upscale_fx_refused_total"] == "1"
    assert lines['upscale_fx_answer_seconds_bucket{le="+Inf"}'] == lines["upscale_fx_answer_seconds_count"] == "1"
    assert float(lines['upscale_fx_rows_computed_total{stage="1"}']) > 0
    assert json.loads(health[2]) == {"status": "ok", "version": 0}


def test_what_waits_is_answered_before_it_closes(app):
    service = app.state.service

    async def story():
        await service.start()
        waiting = [asyncio.create_task(service.ask([node])) for node in range(5)]
        await asyncio.sleep(0)
        await service.close()
        return await asyncio.gather(*waiting), await call(app, "POST", "/nodes", {"ids": [1]})

    answers, late = asyncio.run(story())
    assert len(answers) == 5
    assert late[0] == 503
    with pytest.raises(upscale_fx.errors.ServerError, match="closed"):
        service.server([1])


def test_it_listens_on_this_machine_alone(monkeypatch):
    given = {}
    monkeypatch.setattr(serve_http.uvicorn, "run", lambda app, **options: given.update(options, app=app))
    serve_http.main(["--data", "generated", "--epochs", "1"])
    assert given["host"] == "127.0.0.1"
    given["app"].state.service.server.close()
