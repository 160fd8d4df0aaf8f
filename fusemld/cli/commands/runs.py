"""`fuseml run`, `runs`, `get`, `why`, `cancel` and `retry`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from fusemld.api import views
from fusemld.api.client import url
from fusemld.cli import tables
from fusemld.cli.exits import ExitStatus
from fusemld.cli.options import Output, argument, connect, output_option, run_argument, socket_option
from fusemld.model.run import RunState, StepState

SHOWN = 20
"""How many of the steps that only wait for others `fuseml why` explains."""


@click.command("run")
@argument("workflow")
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="Value of an input; may be repeated"
)
@click.option("--executor", help="Where the steps run, instead of what workflow and settings say")
@click.option("-w", "--wait", is_flag=True, help="Show the progress until the run is over; exit 1 if it fails")
@output_option
@socket_option
def start(workflow: str, inputs: tuple[str, ...], executor: str | None, wait: bool, output: Output) -> None:
    """Start a run of WORKFLOW."""
    wanted = views.StartRun(workflow=workflow, inputs=_inputs(inputs), executor=executor)
    client = connect()
    run = client.post("/runs", views.RunView, wanted)
    if wait:
        from fusemld.cli.commands.watch import follow

        click.get_current_context().exit(follow(client, run.id, output))
    tables.emit(output, run, lambda: f"run {run.id} of {run.workflow} started; see it with: fuseml watch {run.id}")


@click.command("runs")
@click.option("--workflow", help="Only runs of this workflow")
@click.option("--project", help="Only runs of this project")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only runs in this state")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@output_option
@socket_option
def list_runs(workflow: str | None, project: str | None, state: str | None, limit: int, output: Output) -> None:
    """List runs, newest first."""
    client = connect()
    runs = client.get(
        "/runs", tuple[views.RunSummary, ...], workflow=workflow, project=project, state=state, limit=str(limit)
    )

    def table() -> str:
        if not runs and (workflow or project or state):
            return "no such runs"
        if not runs:
            folder = client.get("/health", views.HealthView).folder
            return f"no runs yet: drop a run request into {folder}, or type `fuseml run WORKFLOW`"
        headings = ("id", "workflow", "project", "state", "steps", "started", "took", "now")
        return tables.table(headings, (_row(run) for run in runs))

    tables.emit(output, runs, table)


@click.command("get")
@run_argument
@output_option
@socket_option
def get(run: str, output: Output) -> None:
    """Show RUN with its steps and outputs."""
    found = connect().get(url("runs", run), views.RunView)
    tables.emit(output, found, lambda: described(found))


@click.command("why")
@run_argument
@output_option
@socket_option
def why(run: str, output: Output) -> None:
    """Say what RUN waits for and until when, or why it failed."""
    found = connect().get(url("runs", run, "why"), views.WhyView)
    tables.emit(output, found, lambda: _explained(found))


@click.command("cancel")
@run_argument
@output_option
@socket_option
def cancel(run: str, output: Output) -> None:
    """Stop RUN; its steps get a moment to finish."""
    found = connect().post(url("runs", run, "cancel"), views.RunView)
    tables.emit(output, found, lambda: f"run {found.id} of {found.workflow} is being cancelled")


@click.command("retry")
@run_argument
@click.option("-w", "--wait", is_flag=True, help="Show the progress until the run is over; exit 1 if it fails")
@output_option
@socket_option
def retry(run: str, wait: bool, output: Output) -> None:
    """Go on with RUN from what failed; steps that succeeded are not repeated."""
    client = connect()
    found = client.post(url("runs", run, "retry"), views.RunView)
    if wait:
        from fusemld.cli.commands.watch import follow

        click.get_current_context().exit(follow(client, found.id, output))
    tables.emit(output, found, lambda: f"run {found.id} of {found.workflow} goes on")


def exit_status(state: RunState) -> ExitStatus:
    """Of a program that waited for a run."""
    return ExitStatus.OK if state is RunState.SUCCEEDED else ExitStatus.FAILED


def described(run: views.RunView) -> str:
    """Everything about a run that fits on a page."""
    head = tables.fields(
        (
            ("run", run.id),
            ("workflow", run.workflow),
            ("state", run.state),
            ("message", run.message),
            ("cancel", "requested" if run.cancel_requested and run.state is RunState.RUNNING else ""),
            ("project", run.project),
            ("user", run.user),
            ("cause", run.cause),
            ("executor", run.executor),
            ("started", tables.ago(run.created_at)),
            ("took", tables.spent(run.created_at, run.finished_at)),
        )
    )
    parts = [
        head,
        tables.table(("step", "state", "attempt", "took", "what"), (_step_row(step) for step in run.steps)),
    ]
    parts += [_named("inputs", run.inputs), _named("outputs", run.outputs)]
    pinned = {f"{each.project}/{each.name}": f"{each.version} from {each.url}" for each in run.codesets.values()}
    parts.append(_named("codesets", pinned))
    warnings = [f"warning: {step.name}: {tables.printable(text)}" for step in run.steps for text in step.warnings]
    return "\n\n".join(part for part in [*parts, "\n".join(warnings)] if part)


def what(step: views.StepView, when: Callable[[views.Time], str] = tables.left) -> str:
    """The words of a step: what goes on, what it waits for, or how it ended. `when` words the time of the next
    attempt; what is left until then holds only at this moment."""
    words = _what(step)
    if step.state is StepState.BACKOFF and step.deadline is not None:
        return f"{when(step.deadline)} {words}"
    return words


def took(step: views.StepView) -> str:
    """What the attempts of a step took together; the one that is under way, until now."""
    if step.duration_s is not None:
        return tables.duration(step.duration_s)
    if not step.attempts:
        return ""
    over_s = sum(each.duration_s or 0.0 for each in step.attempts)
    last = step.attempts[-1]
    return tables.duration(over_s + (tables.seconds_since(last.launched_at) if last.ended_at is None else 0.0))


def _what(step: views.StepView) -> str:
    last = step.attempts[-1] if step.attempts else None
    if last and last.message and step.state not in ("succeeded", "running", "starting"):
        if step.state.is_final:
            return last.message
        return step.reason if last.message in step.reason else f"{step.reason}; last: {last.message}"
    return step.activity or step.reason


def _inputs(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--input")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="--input")
        found[name] = value
    return found


def _row(run: views.RunSummary) -> tuple[str, ...]:
    steps = f"{run.steps_done}/{run.steps_total}"
    return (
        run.id,
        run.workflow,
        run.project,
        run.state,
        steps,
        tables.ago(run.created_at),
        tables.spent(run.created_at, run.finished_at),
        run.now or run.message,
    )


def _step_row(step: views.StepView) -> tuple[str, ...]:
    attempt = str(step.attempts[-1].number) if step.attempts else ""
    return (step.name, step.state, attempt, took(step), what(step))


def _named(title: str, values: dict[str, str]) -> str:
    if not values:
        return ""
    width = max(len(name) for name in values)
    return "\n".join([f"{title}:", *(f"  {name:<{width}}  {tables.printable(v)}" for name, v in values.items())])


def _explained(why: views.WhyView) -> str:
    lines = [tables.printable(why.headline)]
    lines += [f"  trouble: {tables.printable(text)}" for text in why.trouble]
    waiting = [item for item in why.items if item.state is StepState.WAITING]
    shown = {item.step for item in waiting[:SHOWN]}
    for item in why.items:
        if item.state is not StepState.WAITING or item.step in shown:
            lines += _explained_step(item)
    if len(waiting) > SHOWN:
        lines.append(f"  and {len(waiting) - SHOWN} more steps that wait for those above")
    lines += [f"next: {command}" for command in why.next]
    return "\n".join(lines)


def _explained_step(item: views.WhyItem) -> Iterator[str]:
    said = [text for text in (item.reason, item.activity) if text and text != item.state]
    yield f"  {item.step} ({tables.state(item.state)}): {tables.printable('; '.join(said) or item.state)}"
    if len(item.waits_for) > 1:
        first = item.waits_for[0]
        who = "which" if item.reason.endswith(f" for {first}") else first
        yield f"    {who} waits for {', which waits for '.join(item.waits_for[1:])}"
    if item.attempt_reason:
        yield f"    attempt {item.attempt}: {tables.printable(item.attempt_reason)}"
    if not item.state.is_final:
        since = f"since {tables.ago(item.since)}" if item.since else "no clock yet"
        until = (
            f"{tables.left(item.deadline)} {item.then}" if item.deadline else item.then or "no deadline of its own"
        )
        yield f"    {since}; {until}"
    if item.tail:
        yield tables.indented(item.tail, "    | ")
