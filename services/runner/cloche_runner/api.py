"""REST of the runner: runs, what they log and leave, and the nodes."""

import re
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from cloche_runner.domain.nodes import Node, is_open_to, project_of
from cloche_runner.domain.runs import Run
from cloche_runner.handlers import Commands, Submission
from cloche_runner.logs import Position, followed_bytes, last_lines, log_bytes, log_events
from cloche_runner.metrics import summarise
from cloche_runner.reading import Follower, Reading
from cloche_runner.scheduling import Scheduling
from cloche_runner.schemas import GpuView, MetricsView, NodeView, OutputsView, SubmitRun, WhyView
from cloche_runner.views import RUNS, RunView, run_view
from cloche_runner.why import why as explain
from cloche_shared.contracts.runs import RunStatus
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Matching, Once, Preferred, etag_of
from cloche_shared.http.elsewhere import Elsewhere, may_go_on, primed
from cloche_shared.http.files import BYTES, download, files_router
from cloche_shared.http.lean import Lean, Shown, lean, lean_show
from cloche_shared.http.paging import Page, Paging, page_bytes
from cloche_shared.http.position_wait import views_caught_up
from cloche_shared.http.replies import Reply, accepted
from cloche_shared.http.routes import router as routes_of
from cloche_shared.http.sse import MEDIA_TYPE, EventStream, LastEventId
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.commit import StreamId
from cloche_shared.service import Platform
from cloche_shared.store.paths import check_path

Read = Annotated[Caller, may("runs.read")]
Write = Annotated[Caller, may("runs.write")]
ReadNodes = Annotated[Caller, may("nodes.read")]
_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
RunId = Annotated[str, Path(pattern=_ID.pattern, description="The run's id.")]

_PREFIX = "/api/v1/runs"
_ACCEPTED = {202: {"model": RunView, "description": "Accepted; `Location` shows how far it is."}}
_TEXT = {
    "text/plain": {"schema": {"type": "string"}},
    MEDIA_TYPE: {"schema": {"type": "string"}},
    BYTES: {"schema": {"type": "string", "format": "binary"}},
}
_LOG = {200: {"content": _TEXT, "description": "The log's bytes, or server-sent events."}}
_FILE = {200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}, "description": "The file."}}


class _Api:
    """What the routes share."""

    def __init__(
        self,
        commands: Commands,
        reading: Reading,
        scheduling: Scheduling,
        platform: Platform,
        elsewhere: Elsewhere | None,
    ) -> None:
        self.elsewhere = elsewhere
        self.commands = commands
        self.reading = reading
        self.scheduling = scheduling
        self.platform = platform

    def reply(self, stream: StreamId, run: Run, seq: int, *, is_done: bool = True) -> Reply:
        """Show a run: 200, or 202 while it is under way."""
        view = run_view(stream, run)
        location = f"{_PREFIX}/{stream.id}"
        if not is_done:
            return accepted(view, location, etag=etag_of(seq))
        return Reply(view, etag=etag_of(seq), location=location)

    async def show(self, caller: Caller, run_id: str, wait_s: float | None) -> Reply:
        """Show a run, when it has ended or after `wait_s` seconds."""
        if wait_s:
            present = await self.reading.ended(caller.project, run_id, wait_s)
        else:
            present = await self.reading.run(caller.project, run_id)
        stream = StreamId("run", caller.project, run_id)
        caller.wrote(stream, present.seq)
        return self.reply(stream, present.state, present.seq)

    def follower(self, request: Request, run_id: str, *, follow: bool) -> Follower | None:
        """Return what asks other replicas for a run's log on behalf of this caller; None where all are here."""
        elsewhere, scope = self.elsewhere, request.scope
        if elsewhere is None or not may_go_on(scope):
            return None

        def ask(node: str, offset: int) -> AsyncIterator[bytes]:
            target = f"{_PREFIX}/{run_id}/log?offset={offset}{'&follow=true' if follow else ''}"
            return elsewhere.chunks(scope, node, target)

        return ask

    def submission(self, caller: Caller, once: Once) -> Submission:
        """Return who asks, and under which id."""
        return Submission(caller.origin(request_id=once.request_id(caller.project)), once.fingerprint)


def _add_changes(routes: APIRouter, api: _Api) -> None:
    submitted = Lean("runs.write", SubmitRun, prefers=True)

    @lean(routes, "", submitted, response_model=RunView, operation_id="submit_run", responses=_ACCEPTED)
    async def submit(caller: Write, once: Once, preferred: Preferred, body: Json[SubmitRun]) -> Response:
        """Submit a run. With `Prefer: wait=N` the answer comes when it has ended (200), or after N seconds (202)."""
        changed = await api.commands.submit(
            caller.project, body.spec(), body.references(), api.submission(caller, once)
        )
        stream, run, seq = changed.stream, changed.state, changed.seq
        if preferred.wait_s:
            present = await api.reading.ended(caller.project, stream.id, preferred.wait_s)
            run, seq = present.state, present.seq
        caller.wrote(stream, seq)
        return api.reply(stream, run, seq, is_done=run.is_terminal)

    @routes.post("/{run_id}/cancel", response_model=RunView, operation_id="cancel_run", responses=_ACCEPTED)  # type: ignore[arg-type]
    async def cancel(caller: Write, once: Once, matching: Matching, run_id: RunId) -> Response:
        """Cancel a run. One that has ended stays as it is (200); one that a node holds ends soon (202)."""
        if matching.tags:
            await api.reading.run(caller.project, run_id)  # one that does not exist is 404, whatever it is held to
        check = matching.check if matching.tags else None
        changed = await api.commands.cancel(caller.project, run_id, api.submission(caller, once), check)
        caller.wrote(changed.stream, changed.seq)
        return api.reply(changed.stream, changed.state, changed.seq, is_done=changed.state.is_terminal)


def _add_views(routes: APIRouter, api: _Api) -> None:
    waits = views_caught_up(api.platform.installation, api.platform.views, {"run": RUNS})

    @routes.get("", response_model=Page[RunView], operation_id="list_runs", dependencies=[waits])
    async def list_all(
        caller: Read, paging: Paging, status: Annotated[RunStatus | None, Query(description="Only these.")] = None
    ) -> Response:
        """List runs, newest first."""
        rows = await api.platform.views.page(
            RUNS, caller.project, facet=status, after=paging.after, limit=paging.limit + 1, descending=True
        )
        return Reply(page_bytes(rows, paging))

    @lean_show(routes, "/{run_id}", Shown("runs.read", _ID), response_model=RunView, operation_id="get_run")
    async def show(
        caller: Read,
        preferred: Preferred,
        run_id: RunId,
        wait: Annotated[float | None, Query(ge=0, le=60, description="Seconds to wait for its end.")] = None,
    ) -> Response:
        """Show a run; with `wait` or `Prefer: wait=N` when it has ended, or after so many seconds."""
        return await api.show(caller, run_id, preferred.wait_s if wait is None else wait)

    @routes.get("/{run_id}/why", response_model=WhyView, operation_id="why_run")
    async def why(caller: Read, run_id: RunId) -> Response:
        """Tell what a run waits for."""
        present = await api.reading.run(caller.project, run_id)
        stream = StreamId("run", caller.project, run_id)
        return Reply(explain(stream, present.state, api.scheduling, api.reading.room(stream)))


def _add_results(routes: APIRouter, api: _Api) -> None:
    @routes.get("/{run_id}/metrics", response_model=MetricsView, operation_id="get_run_metrics")
    async def metrics(caller: Read, run_id: RunId) -> Response:
        """Show what the run's last attempt logged, its tags and properties."""
        run = (await api.reading.run(caller.project, run_id)).state
        lines = await api.reading.measured(StreamId("run", caller.project, run_id), run.attempt)
        measures = run.measures
        shown = {
            "metrics": summarise(lines),
            "tags": measures.tags,
            "properties": measures.properties,
            "truncated": measures.offset >= api.reading.measure_limit,
        }
        return Reply(orjson.dumps(shown))

    @routes.get("/{run_id}/outputs", response_model=OutputsView, operation_id="list_run_outputs")
    async def outputs(caller: Read, run_id: RunId) -> Response:
        """List the files that the run left."""
        run = (await api.reading.run(caller.project, run_id)).state
        manifest = await api.reading.outputs(caller.project, run)
        return Reply(OutputsView(digest=run.outputs or "", files=list(manifest.files)))

    @routes.get(
        "/{run_id}/outputs/{path:path}",
        response_class=StreamingResponse,
        operation_id="get_run_output",
        responses=_FILE,  # type: ignore[arg-type]
    )
    async def output(caller: Read, run_id: RunId, path: Annotated[str, Path(max_length=1024)]) -> Response:
        """Download a file that the run left."""
        check_path(path)
        run = (await api.reading.run(caller.project, run_id)).state
        entry = await api.reading.output(caller.project, run, path)
        return await download(api.reading.space(caller.project), entry.digest, filename=path.rpartition("/")[2])


def _add_log(routes: APIRouter, api: _Api) -> None:
    @routes.get("/{run_id}/log", response_class=Response, operation_id="get_run_log", responses=_LOG)  # type: ignore[arg-type]
    async def log(  # noqa: PLR0913 - each is a parameter of the request
        caller: Read,
        resume: LastEventId,
        request: Request,
        run_id: RunId,
        offset: Annotated[int, Query(ge=0, le=2**53, description="Bytes to pass over.")] = 0,
        tail: Annotated[int | None, Query(ge=0, le=100_000, description="Only so many of the last lines.")] = None,
        *,
        follow: Annotated[bool, Query(description="Server-sent events until the run has ended.")] = False,
        accept: Annotated[str, Header(max_length=1024, include_in_schema=False)] = "",
    ) -> Response:
        """Show the log as it is now, or follow it; an event's id is the place behind it.

        With `Accept: application/octet-stream` a log that is followed comes as its bytes.
        """
        await api.reading.run(caller.project, run_id)
        stream = StreamId("run", caller.project, run_id)
        if follow and BYTES in accept:
            there = api.follower(request, run_id, follow=True)
            asked_by_replica = not may_go_on(request.scope)
            body = followed_bytes(api.reading, stream, offset, there, only_here=asked_by_replica)
            return StreamingResponse(body, media_type=BYTES)
        if follow or MEDIA_TYPE in accept:
            there = api.follower(request, run_id, follow=True)
            start = Position.read(resume) if resume else Position(offset)
            return EventStream(log_events(api.reading, stream, start, there))
        there = api.follower(request, run_id, follow=False)
        if tail is not None:
            lines = await last_lines(api.reading, stream, tail, there)
            return Response(lines, media_type="text/plain; charset=utf-8")
        body = await primed(log_bytes(api.reading, stream, offset, there))
        return StreamingResponse(body, media_type="text/plain; charset=utf-8")


def _node_view(name: str, node: Node, project: str) -> NodeView:
    free = {gpu.uuid for gpu in node.free_gpus}
    return NodeView(
        id=name,
        status="ready" if node.is_here else "lost",
        cpus=node.cpus,
        memory=node.memory,
        free_cpus=node.free_cpus,
        free_memory=node.free_memory,
        gpus=[GpuView(uuid=one.uuid, kind=one.kind, memory=one.memory, free=one.uuid in free) for one in node.gpus],
        holders=sorted(holder for holder in node.held if project_of(holder) == project),
        open=is_open_to(node, project),
    )


def _nodes(api: _Api) -> APIRouter:
    routes = routes_of("nodes", "/nodes")

    @routes.get("", response_model=Page[NodeView], operation_id="list_nodes")
    async def list_nodes(caller: ReadNodes, paging: Paging) -> Response:
        """List the nodes by id; of what they hold, only the caller's project's."""
        after = paging.after[0] if paging.after is not None else ""
        found = sorted((name, node) for name, node in api.reading.nodes().items() if name > after)
        shown = [_node_view(name, node, caller.project) for name, node in found[: paging.limit]]
        token = paging.token(shown[-1].id, shown[-1].id) if len(found) > paging.limit else None
        return Reply(Page[NodeView](items=shown, next_page_token=token))

    return routes


def router(
    commands: Commands,
    reading: Reading,
    scheduling: Scheduling,
    platform: Platform,
    elsewhere: Elsewhere | None = None,
) -> APIRouter:
    """Return all routes of the runner; with `elsewhere` other replicas are asked for what they hold."""
    api = _Api(commands, reading, scheduling, platform, elsewhere)
    runs = routes_of("runs", "/runs")
    _add_changes(runs, api)
    _add_views(runs, api)
    _add_results(runs, api)
    _add_log(runs, api)
    whole = APIRouter()
    for part in (runs, _nodes(api), files_router("runs", platform.blobs, "runner")):
        whole.routes.extend(part.routes)
    return whole
