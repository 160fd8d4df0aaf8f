"""From the model to what the API returns. Pure; what is secret is left out or hidden here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from fusemld.api import registry_views, views
from fusemld.api.views import HIDDEN, Time, moment
from fusemld.engine.failure import first_failed
from fusemld.model.application import Application
from fusemld.model.codeset import Codeset
from fusemld.model.extension import Extension, Service
from fusemld.model.run import SUMMARY_LENGTH, Attempt, Ending, Run, RunState, StepRun, StepState
from fusemld.model.template import Template
from fusemld.model.workflow import (
    CodesetMount,
    OutputImage,
    Requirement,
    Resources,
    Retry,
    Step,
    StepInput,
    StepOutput,
    Workflow,
)

NO_ACTIVITY: Mapping[str, str] = {}

_INTERESTING = (
    StepState.RUNNING,
    StepState.STARTING,
    StepState.BACKOFF,
    StepState.QUEUED,
    StepState.WAITING,
    StepState.CANCELLED,
)
"""Which step speaks for its run where none has failed, first match wins."""


def run_view(run: Run, workflow: Workflow | None, activity: Mapping[str, str] = NO_ACTIVITY) -> views.RunView:
    """`workflow` is the one the run started with (it gives order and images); `activity` maps steps to their
    live line."""
    steps = {step.name: step for step in workflow.steps} if workflow else {}
    ordered = list(in_order(run, steps))
    failed = first_failed(run, ordered)
    return views.RunView(
        id=run.id,
        workflow=run.workflow,
        project=run.project,
        user=run.user,
        cause=run.cause,
        executor=run.executor,
        state=run.state,
        message=readable(run.message),
        failed_step=failed.name if failed is not None else "",
        cancel_requested=run.cancel_requested,
        created_at=moment(run.created_at),
        finished_at=moment_or_none(run.finished_at),
        inputs=run.inputs,
        codesets=run.codesets or {},
        outputs=_outputs(run.outputs),
        steps=tuple(step_view(step, steps.get(step.name), activity.get(step.name, "")) for step in ordered),
    )


def step_view(step: StepRun, declared: Step | None, activity: str = "") -> views.StepView:
    started = step.attempts[0].launched_at if step.attempts else None
    ended = step.attempts[-1].ended_at if step.attempts and step.state.is_final else None
    return views.StepView(
        name=step.name,
        image=str(declared.image) if declared else "",
        state=step.state,
        reason=readable(step.reason),
        activity="" if step.state.is_final else activity,
        since=moment_or_none(step.since or None),
        deadline=None if step.state.is_final else moment_or_none(step.deadline),
        started_at=moment_or_none(started),
        finished_at=moment_or_none(ended),
        duration_s=None if ended is None else _spent_s(step.attempts),
        attempts=tuple(_attempt(attempt) for attempt in step.attempts),
        outputs=_outputs(step.outputs),
        services=step.services,
        warnings=step.warnings,
    )


def run_summary(
    run: Run, workflow: Workflow | None = None, activity: Mapping[str, str] = NO_ACTIVITY
) -> views.RunSummary:
    steps = {step.name: step for step in workflow.steps} if workflow else {}
    return views.RunSummary(
        id=run.id,
        workflow=run.workflow,
        project=run.project,
        user=run.user,
        cause=run.cause,
        executor=run.executor,
        state=run.state,
        message=readable(run.message),
        now=now(run, list(in_order(run, steps)), activity),
        created_at=moment(run.created_at),
        finished_at=moment_or_none(run.finished_at),
        steps_done=sum(step.state is StepState.SUCCEEDED for step in run.steps.values()),
        steps_total=len(run.steps),
        inputs=run.inputs,
        outputs=_outputs({name: text for name, text in run.outputs.items() if len(text) <= SUMMARY_LENGTH}),
    )


def workflow_view(workflow: Workflow, file: str = "", created: float | None = None) -> views.WorkflowView:
    return views.WorkflowView(
        name=workflow.name,
        description=workflow.description,
        inputs=tuple(
            views.WorkflowInputView(
                name=entry.name,
                description=entry.description,
                type=entry.type,
                default=entry.default,
                labels=entry.labels,
            )
            for entry in workflow.inputs
        ),
        outputs=tuple(
            views.WorkflowOutputView(
                name=output.name,
                description=output.description,
                type=output.type,
                value=_text_or_none(output.value),
            )
            for output in workflow.outputs
        ),
        steps=tuple(_workflow_step(step) for step in workflow.steps),
        executor=workflow.executor,
        order=workflow.order,
        file=file,
        created=moment_or_none(created),
    )


def codeset_view(codeset: Codeset, version: str | None = None, file: str = "") -> views.CodesetView:
    return views.CodesetView(
        project=codeset.project,
        name=codeset.name,
        description=codeset.description,
        labels=codeset.labels,
        url=f"file://{codeset.path}" if codeset.path else without_credentials(codeset.url or ""),
        ref=codeset.ref,
        path=codeset.path,
        version=version,
        file=file,
    )


def application_view(application: Application, state: str = "") -> views.ApplicationView:
    """Objects are `apiVersion/kind/namespace/name` (the first may have a slash of its own)."""
    objects = [entry.split("/") for entry in application.objects]
    return views.ApplicationView(
        name=application.name,
        type=application.type,
        url=application.url,
        description=application.description,
        workflow=application.workflow,
        k8s_namespace=objects[0][-2] if objects else "",
        k8s_resources=tuple(views.ObjectView(kind=entry[-3], name=entry[-1]) for entry in objects),
        project=application.project,
        run=application.run,
        revision=application.revision,
        state=state,
        services=application.services,
        copies=application.copies,
        updated_at=moment_or_none(application.updated_at or None),
    )


def extension_view(extension: Extension, origin: str = "") -> registry_views.ExtensionView:
    return registry_views.ExtensionView(
        id=extension.id,
        product=extension.product,
        version=extension.version,
        zone=extension.zone,
        description=extension.description,
        configuration=extension.configuration,
        services=tuple(_extension_service(service) for service in extension.services),
        origin=origin,
    )


def without_credentials(url: str) -> str:
    """The URL with `***` for whatever stands before the `@` of its host, but for a bare user name of ssh."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("/")
    user, at, address = host.rpartition("@")
    if not at or (scheme in ("ssh", "git+ssh") and ":" not in user):
        return url
    return f"{scheme}://{HIDDEN}@{address}{slash}{path}"


def in_order(run: Run, declared: Mapping[str, Step]) -> Iterable[StepRun]:
    """The steps as the workflow lists them, by name where it is not known."""
    names = [name for name in declared if name in run.steps] if declared else sorted(run.steps)
    return (run.steps[name] for name in names)


def now(run: Run, ordered: Sequence[StepRun], activity: Mapping[str, str]) -> str:
    """What goes on in a few words, or what it failed of; empty where it succeeded."""
    if run.state is RunState.SUCCEEDED:
        return ""
    failed = first_failed(run, ordered)
    if failed is not None:
        last = failed.attempts[-1].outcome if failed.attempts else None
        return readable(
            f"{failed.name}: {last.message if last and last.message else failed.reason or failed.state}"
        )
    for state in _INTERESTING:
        for step in ordered:
            if step.state is state:
                return readable(f"{step.name}: {activity.get(step.name) or step.reason or state}")
    return readable(run.message)


def _outputs(outputs: Mapping[str, str]) -> dict[str, str]:
    """As JSON can carry them: one that is not text is a `data:` URL (RFC 2397)."""
    return {name: value if _is_text(value) else _data_url(value) for name, value in outputs.items()}


def _data_url(value: str) -> str:
    data = value.encode("utf-8", "surrogateescape")
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def readable(text: str) -> str:
    """What programs have said, for people: bytes that are not text are marked as such."""
    return text if _is_text(text) else text.encode("utf-8", "surrogateescape").decode(errors="replace")


def _is_text(text: str) -> bool:
    """Whether no bytes other than UTF-8 hide in it, as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spent_s(attempts: Iterable[Attempt]) -> float:
    return round(sum(each.ended_at - each.launched_at for each in attempts if each.ended_at is not None), 3)


def _attempt(attempt: Attempt) -> views.AttemptView:
    outcome = attempt.outcome
    ended = attempt.ended_at
    return views.AttemptView(
        number=attempt.number,
        reason=readable(attempt.reason),
        launched_at=moment(attempt.launched_at),
        started_at=moment_or_none(attempt.started_at),
        ended_at=moment_or_none(ended),
        duration_s=None if ended is None else round(ended - attempt.launched_at, 3),
        ending=outcome.ending if outcome else None,
        message=readable(outcome.message) if outcome else "",
        exit_status=outcome.exit_status if outcome else None,
        tail=readable(outcome.tail) if outcome and outcome.ending is not Ending.SUCCEEDED else "",
    )


def _workflow_step(step: Step) -> views.WorkflowStepView:
    return views.WorkflowStepView(
        name=step.name,
        image=str(step.image),
        inputs=tuple(_step_input(entry) for entry in step.inputs),
        outputs=tuple(_step_output(output) for output in step.outputs),
        extensions=tuple(_requirement(requirement) for requirement in step.extensions),
        env=tuple(views.EnvVarView(name=var.name, value=str(var.value)) for var in step.env),
        resources=_resources(step.resources),
        needs=step.needs,
        retry=_retry(step.retry) if step.retry else None,
        timeout_s=step.timeout_s,
        command=_texts(step.command),
        args=_texts(step.args),
    )


def _resources(resources: Resources) -> views.ResourcesView | None:
    if not resources.requests and not resources.limits:
        return None
    return views.ResourcesView(
        requests={name: str(value) for name, value in resources.requests.items()},
        limits={name: str(value) for name, value in resources.limits.items()},
    )


def _retry(retry: Retry) -> views.RetryView:
    return views.RetryView(limit=retry.limit, backoff_s=retry.backoff_s, max_backoff_s=retry.max_backoff_s)


def _step_input(entry: StepInput) -> views.StepInputView:
    return views.StepInputView(
        name=entry.name, value=_text_or_none(entry.value), codeset=_mount(entry.codeset) if entry.codeset else None
    )


def _mount(mount: CodesetMount) -> views.CodesetMountView:
    return views.CodesetMountView(name=str(mount.name), path=mount.path)


def _step_output(output: StepOutput) -> views.StepOutputView:
    return views.StepOutputView(name=output.name, image=_image(output.image) if output.image else None)


def _image(image: OutputImage) -> views.OutputImageView:
    return views.OutputImageView(name=str(image.name), dockerfile=str(image.dockerfile))


def _requirement(requirement: Requirement) -> views.RequirementView:
    return views.RequirementView(
        name=requirement.name,
        extension_id=_text(requirement.extension_id),
        service_id=_text(requirement.service_id),
        product=_text(requirement.product),
        version=_text(requirement.version),
        zone=_text(requirement.zone),
        service_resource=_text(requirement.service_resource),
        service_category=_text(requirement.service_category),
    )


def _extension_service(service: Service) -> registry_views.ExtensionServiceView:
    return registry_views.ExtensionServiceView(
        id=service.id,
        resource=service.resource,
        category=service.category,
        auth_required=service.auth_required,
        description=service.description,
        configuration=service.configuration,
        endpoints=tuple(
            registry_views.EndpointView(url=endpoint.url, type=endpoint.type, configuration=endpoint.configuration)
            for endpoint in service.endpoints
        ),
        credentials=tuple(
            registry_views.CredentialsView(
                id=credentials.id,
                scope=credentials.scope,
                default=credentials.default,
                projects=credentials.projects,
                users=credentials.users,
                configuration=dict.fromkeys(credentials.configuration, HIDDEN),
            )
            for credentials in service.credentials
        ),
    )


def moment_or_none(epoch: float | None) -> Time | None:
    """See `moment`."""
    return None if epoch is None else moment(epoch)


def _text(template: Template | None) -> str:
    return "" if template is None else str(template)


def _text_or_none(template: Template | None) -> str | None:
    return None if template is None else str(template)


def _texts(templates: Sequence[Template] | None) -> tuple[str, ...] | None:
    return None if templates is None else tuple(str(template) for template in templates)
