"""The API as one table. Paths and payloads marked `reference` are those of the reference server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from fusemld.api import handlers, reference, registry_views, views
from fusemld.api.access import Access
from fusemld.api.calls import Call

Handler = Callable[[Call], Awaitable[object]]
LineHandler = Callable[[Call], Awaitable[AsyncGenerator[bytes]]]
ChangeHandler = Callable[[Call], Awaitable[AsyncGenerator[views.RunView]]]


class Route(msgspec.Struct, frozen=True):
    """One operation. `answer` is the type of the JSON that comes back, None where nothing does; with `text` it
    is a stream of `media`, with `changes` a stream of JSON lines, and `answer` the type of a line. A path is
    answered with and without a slash at its end."""

    method: str
    path: str
    summary: str
    handler: Handler | None = None
    answer: object = None
    access: Access = Access.OPERATE
    status: int = 200
    body: type[msgspec.Struct] | None = None
    query: tuple[str, ...] = ()
    reference: bool = False
    text: LineHandler | None = None
    media: str = "text/plain"
    changes: ChangeHandler | None = None


ROUTES: tuple[Route, ...] = (
    Route("GET", "/version", "What runs here", handlers.version, views.VersionView, reference=True),
    Route("GET", "/workflows", "Registered workflows", handlers.list_workflows, list[views.WorkflowView],
          query=("name",), reference=True),
    Route("GET", "/workflows/runs", "Runs of workflows", handlers.reference_runs, list[reference.WorkflowRun],
          query=("name", "codesetProject", "codesetName", "status"), reference=True),
    Route("GET", "/workflows/{name}", "One workflow", handlers.get_workflow, views.WorkflowView, reference=True),
    Route("GET", "/codesets", "Registered codesets", handlers.list_codesets, list[views.CodesetView],
          query=("project", "label"), reference=True),
    Route("GET", "/codesets/{project}/{name}", "One codeset", handlers.get_codeset, views.CodesetView,
          reference=True),
    Route("GET", "/applications", "What runs left behind", handlers.list_applications,
          list[views.ApplicationView], query=("type", "workflow"), reference=True),
    Route("GET", "/applications/{name}", "One application", handlers.get_application, views.ApplicationView,
          reference=True),
    Route("DELETE", "/applications/{name}", "Stop and forget an application", handlers.delete_application,
          status=204, query=("orphan",), reference=True),
    Route("GET", "/extensions", "The Extension Registry", handlers.list_extensions,
          list[registry_views.ExtensionView], body=reference.ExtensionQuery, reference=True),
    Route("GET", "/extensions/{id}", "One record", handlers.get_extension, registry_views.ExtensionView,
          reference=True),
    Route("POST", "/extensions/{id}/check", "Ask the live services of a record", handlers.check_extension,
          list[registry_views.CheckView], query=("project", "user")),
    Route("GET", "/workflows/{name}/explain", "What the requirements of a workflow resolve to",
          handlers.explain_workflow, registry_views.ExplanationView, query=("project", "user")),
    Route("GET", "/runs", "Runs, newest first", handlers.list_runs, list[views.RunSummary],
          query=("workflow", "project", "codeset", "state", "limit")),
    Route("POST", "/runs", "Start a run", handlers.start_run, views.RunView, status=201, body=views.StartRun),
    Route("GET", "/runs/{run}", "One run with its steps", handlers.get_run, views.RunView),
    Route("GET", "/runs/{run}/why", "Why a run is in its state", handlers.why_run, views.WhyView),
    Route("POST", "/runs/{run}/cancel", "Ask a run to stop", handlers.cancel_run, views.RunView),
    Route("POST", "/runs/{run}/retry", "Go on from what failed", handlers.retry_run, views.RunView),
    Route("GET", "/runs/{run}/logs", "Step logs", text=handlers.run_logs, query=("step", "attempt", "follow")),
    Route("GET", "/runs/{run}/logs/lines", "Step logs, line by line", answer=views.LogLine,
          text=handlers.run_log_lines, media="application/x-ndjson", query=("step", "attempt", "follow")),
    Route("GET", "/runs/{run}/events", "The run, again at every change, until it is over",
          changes=handlers.run_changes, answer=views.StreamItem),
    Route("GET", "/events", "Every unfinished run, again at every change, and every other that ends, as it ended; "
          "broken off where the reader is too slow", changes=handlers.all_changes, answer=views.StreamItem),
    Route("GET", "/files", "The watched folder, document by document", handlers.files, list[views.FileView]),
    Route("GET", "/schema", "The JSON Schema of documents, for editors", handlers.schema, dict[str, Any]),
    Route("GET", "/services", "Embedded services", handlers.services, list[views.ServiceView]),
    Route("GET", "/health", "How the daemon is", handlers.health, views.HealthView),
    Route("POST", "/gc", "Remove what retention lets go", handlers.collect_garbage, views.UpkeepView,
          body=views.CollectGarbage, access=Access.ADMINISTER),
    Route("GET", "/backup", "A copy of the database at one moment", text=handlers.backup,
          media="application/vnd.sqlite3", access=Access.ADMINISTER),
    Route("POST", "/stop", "Stop the daemon", handlers.stop, status=202, body=views.StopDaemon,
          access=Access.ADMINISTER),
)  # fmt: skip

OBSOLETE: tuple[str, ...] = ("/runnables", "/runnables/{id}")
"""Answered with 410 for every method."""

OPENAPI_PATH = "/api/openapi.json"
