"""Serve a pruned graph neural network over HTTP while its graph changes.

    pip install upscale_fx[serve]
    python examples/serve_http.py --data generated
    curl -s localhost:8000/nodes -H 'Content-Type: application/json' -d '{"ids": [3, 5]}'
    curl -s localhost:8000/edges -H 'Content-Type: application/json' -d '{"add": [[3, 5]]}'

Trains and prunes a network as `prune_gnn.py` does. `POST /nodes` answers for nodes; questions that come at one time
are answered together. `POST /edges` adds and removes edges as one version. `GET /healthz` says whether it works, and
`GET /metrics` counts, as Prometheus reads it. It listens on this machine alone unless `--host` says otherwise: there is
no password, so put a proxy before it that checks who asks.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

import prune_gnn
import upscale_fx
from upscale_fx.errors import InputError, ServerError

T = TypeVar("T")

MOST_NODES, MOST_EDGES, MOST_BYTES, MOST_WAITING = 4096, 10_000, 1 << 20, 1024
#: Upper ends of the classes that `/metrics` counts the seconds of questions in.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Node = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Pair = tuple[Node, Node]


class Nodes(BaseModel):
    """The body of `POST /nodes`."""

    model_config = ConfigDict(extra="forbid")
    ids: Annotated[list[Node], Field(min_length=1, max_length=MOST_NODES)]


class Outputs(BaseModel):
    """The answer to it: a row per node, all of one version or a later one."""

    outputs: list[list[float]]
    version: int


class Edges(BaseModel):
    """The body of `POST /edges`: removed first, then added, as one version."""

    model_config = ConfigDict(extra="forbid")
    add: Annotated[list[Pair], Field(max_length=MOST_EDGES)] = []
    remove: Annotated[list[Pair], Field(max_length=MOST_EDGES)] = []


class Busy(Exception):
    """Too many questions are waiting, or the server is closing."""


@dataclass
class Question:
    """Nodes that somebody waits for."""

    ids: list[int]
    answer: asyncio.Future[tuple[list[list[float]], int]]


@dataclass
class Service:
    """A server behind a queue: one thread computes, and takes all questions that wait at once.

    Attributes:
        server: what answers.
        together: by how many questions were answered together, how often.
        seconds: per class of `BUCKETS`, and one for longer ones, how many questions.
        spent: seconds of all questions, from arrival to answer.
        failed: questions and changes that were refused.
    """

    server: upscale_fx.Server
    batches: int = 0
    questions: int = 0
    asked: int = 0
    seconds: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    spent: float = 0.0
    failed: int = 0
    closing: bool = False

    async def start(self) -> None:
        """Begin to answer."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server")
        self._waiting: asyncio.Queue[Question | None] = asyncio.Queue()
        self._loop = asyncio.create_task(self._answer_all())

    async def close(self) -> None:
        """Answer what waits, take nothing more, and close the server."""
        self.closing = True
        self._waiting.put_nowait(None)
        await self._loop
        await self._compute(self.server.close)
        self._thread.shutdown()

    async def ask(self, ids: list[int]) -> tuple[list[list[float]], int]:
        """Return rows of outputs and the version they belong to.

        Raises:
            Busy: too many questions wait.
            ServerError: a node does not exist.
        """
        if self.closing or self._waiting.qsize() >= MOST_WAITING:
            raise Busy("closing" if self.closing else f"{MOST_WAITING} questions are waiting")
        start = time.perf_counter()
        question = Question(ids, asyncio.get_running_loop().create_future())
        self._waiting.put_nowait(question)
        found = await question.answer
        seconds = time.perf_counter() - start
        self.spent += seconds
        self.seconds[sum(seconds > end for end in BUCKETS)] += 1
        self.asked += len(ids)
        return found

    async def change(self, edges: Edges) -> int:
        """Change edges; return the new version.

        Raises:
            Busy: the server is closing.
            ServerError: a node or an edge does not exist; nothing is changed.
        """
        if self.closing:
            raise Busy("closing")
        return await self._compute(functools.partial(_change, self.server, edges))

    async def _compute(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _answer_all(self) -> None:
        while (question := await self._waiting.get()) is not None:
            questions = [question]
            while not self._waiting.empty() and sum(len(q.ids) for q in questions) < MOST_NODES:
                following = self._waiting.get_nowait()
                if following is None:
                    self._waiting.put_nowait(None)
                    break
                questions.append(following)
            answers = await self._compute(functools.partial(_answers, self.server, [q.ids for q in questions]))
            self.batches += 1
            self.questions += len(questions)
            for asked, answer in zip(questions, answers, strict=True):
                if asked.answer.done():  # who asked has gone
                    continue
                if isinstance(answer, Exception):
                    asked.answer.set_exception(answer)
                else:
                    asked.answer.set_result(answer)


def _answers(
    server: upscale_fx.Server, questions: Sequence[list[int]]
) -> list[tuple[list[list[float]], int] | Exception]:
    """Answer all together; if that fails, one by one, so that a wrong question spoils its own answer alone."""
    try:
        rows: Tensor = server([node for ids in questions for node in ids])
        parts = torch.split(rows, [len(ids) for ids in questions])
        return [(part.tolist(), server.version) for part in parts]
    except Exception as error:  # whoever asked gets it; the next questions are answered all the same
        if len(questions) == 1:
            return [error]
        return [_answers(server, [ids])[0] for ids in questions]


def _change(server: upscale_fx.Server, edges: Edges) -> int:
    with server.transaction():
        if edges.remove:
            server.remove_edges(torch.tensor(edges.remove).t())
        if edges.add:
            server.add_edges(torch.tensor(edges.add).t())
    return server.version


class BoundedBody:
    """Refuses bodies that are too long, before they are read into anything."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and hand it on if it is short enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self.most:
                refusal = JSONResponse({"detail": f"a body has at most {self.most:,} bytes"}, status_code=413)
                await refusal(scope, receive, send)
                return
        handed: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return handed.pop() if handed else await receive()

        await self.app(scope, again, send)


def create_app(server: upscale_fx.Server) -> FastAPI:
    """Return the application; it closes the server when it ends."""
    service = Service(server)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(title="upscale_fx server", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BoundedBody, most=MOST_BYTES)
    app.state.service = service

    @app.post("/nodes")
    async def nodes(body: Nodes) -> Outputs:
        outputs, version = await service.ask(body.ids)
        return Outputs(outputs=outputs, version=version)

    @app.post("/edges")
    async def edges(body: Edges) -> dict[str, int]:
        return {"version": await service.change(body)}

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        status = "closing" if service.closing else "ok"
        return JSONResponse({"status": status, "version": server.version}, status_code=503 if service.closing else 200)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(metrics_text(service), media_type="text/plain; version=0.0.4")

    def refused(status: int) -> Callable[[Request, Exception], Any]:
        def respond(_: Request, error: Exception) -> JSONResponse:
            service.failed += 1
            headers = {"Retry-After": "1"} if status == 503 else None
            return JSONResponse({"detail": str(error)}, status_code=status, headers=headers)

        return respond

    for kind, status in ((ServerError, 409), (InputError, 422), (Busy, 503)):
        app.add_exception_handler(kind, refused(status))
    return app


def metrics_text(service: Service) -> str:
    """Return counts as Prometheus reads them."""
    stats, lines = service.server.stats, []

    def add(name: str, kind: str, values: Sequence[tuple[str, float]]) -> None:
        lines.append(f"# TYPE upscale_fx_{name} {kind}")
        lines.extend(f"upscale_fx_{name}{label} {value:g}" for label, value in values)

    counts = {
        "questions_total": service.questions, "batches_total": service.batches, "nodes_total": service.asked,
        "refused_total": service.failed, "updates_total": stats.updates, "hits_total": stats.hits,
    }  # fmt: skip
    for name, value in counts.items():
        add(name, "counter", [("", value)])
    add("version", "gauge", [("", service.server.version)])
    for name in ("rows_read", "rows_computed", "rows_forgotten"):
        rows = getattr(stats, name).items()
        add(f"{name}_total", "counter", [(f'{{stage="{stage}"}}', value) for stage, value in rows])
    up_to = [sum(service.seconds[: place + 1]) for place in range(len(service.seconds))]
    ends = [*(f"{end:g}" for end in BUCKETS), "+Inf"]
    buckets = [(f'_bucket{{le="{end}"}}', float(count)) for end, count in zip(ends, up_to, strict=True)]
    add("answer_seconds", "histogram", [*buckets, ("_sum", service.spent), ("_count", up_to[-1])])
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, prune and serve until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cora", help="as in prune_gnn.py (default: %(default)s)")
    parser.add_argument("--root", type=Path, help="folder of stored graphs with a load.py (default: ../shared/data)")
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--store", help="folder that keeps rows and changes (default: memory)")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine alone")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    options = parser.parse_args(argv)
    root = options.root or (prune_gnn.STORED if (prune_gnn.STORED / "load.py").is_file() else None)
    if options.data not in prune_gnn.graph_names(root):
        parser.error(f"argument --data: {options.data!r} is none of {', '.join(prune_gnn.graph_names(root))}")
    uvicorn.run(
        create_app(trained_server(options.data, root, options.epochs, options.store)),
        host=options.host, port=options.port, timeout_graceful_shutdown=10, limit_concurrency=2 * MOST_WAITING,
    )  # fmt: skip


def trained_server(data: str, root: Path | None, epochs: int, store: str | None = None) -> upscale_fx.Server:
    """Return a warm server of a small GraphSAGE, trained on a graph and pruned by 75 %."""
    graph = prune_gnn.load_graph(data, root)
    torch.manual_seed(0)
    model = prune_gnn.MODELS["sage"](graph.num_features, 64, int(graph.y.max()) + 1)
    prune_gnn.train(model, graph, epochs)
    inputs = graph.x, graph.edge_index
    compiled = upscale_fx.optimize(upscale_fx.prune(model, 0.75, calibration=inputs), inference=True).eval()
    server = upscale_fx.Server(compiled, *inputs, store=store)
    server.warm()
    return server


if __name__ == "__main__":
    main()
