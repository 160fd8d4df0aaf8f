from __future__ import annotations

import immutables
import msgspec
import pytest
from msgspec.structs import replace

from fusemld.api.present import (
    application_view,
    codeset_view,
    extension_view,
    run_summary,
    run_view,
    without_credentials,
    workflow_view,
)
from fusemld.api.views import moment
from fusemld.api.why import why_view
from fusemld.model.application import Application
from fusemld.model.codeset import Codeset
from fusemld.model.extension import Credentials, Endpoint, Extension, SecretReference, Service
from fusemld.model.run import Attempt, Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.template import Reference, Template, literal
from fusemld.model.workflow import CodesetMount, Requirement, Retry, Step, StepInput, StepOutput, Workflow

CANARY = "canary-7f3a"

WORKFLOW = Workflow(
    name="w",
    steps=(
        Step(name="zeta", image=literal("python:3.11"), outputs=(StepOutput(name="image"),)),
        Step(
            name="alpha",
            image=Template((Reference(("steps", "zeta", "outputs", "image")),)),
            inputs=(
                StepInput(name="code", codeset=CodesetMount(name=literal("a/b"), path="/project")),
                StepInput(name="n", value=literal("1")),
                StepInput(name="nothing"),
            ),
            extensions=(Requirement(name="store", service_resource=literal("s3")),),
            retry=Retry(limit=2),
        ),
    ),
)

FAILED = Attempt(
    number=1,
    reason="first",
    launched_at=100.0,
    started_at=100.5,
    ended_at=103.0,
    outcome=Outcome(
        ending=Ending.PROGRAM_FAILED, message="exit status 3", exit_status=3, tail="Traceback\nKeyError"
    ),
)


def run(state: RunState, *steps: StepRun) -> Run:
    return Run(
        id="r1",
        workflow="w",
        workflow_digest="d",
        created_at=90.0,
        state=state,
        steps=immutables.Map({step.name: step for step in steps}),
    )


def test_steps_are_shown_in_the_order_of_the_workflow() -> None:
    view = run_view(run(RunState.RUNNING, StepRun(name="alpha"), StepRun(name="zeta")), WORKFLOW)

    assert [(step.name, step.image) for step in view.steps] == [
        ("zeta", "python:3.11"),
        ("alpha", "{{ steps.zeta.outputs.image }}"),
    ]


def test_a_run_whose_workflow_is_gone_is_still_shown_whole() -> None:
    view = run_view(run(RunState.RUNNING, StepRun(name="zeta"), StepRun(name="alpha")), None)

    assert [step.name for step in view.steps] == ["alpha", "zeta"]


def test_a_step_that_is_over_has_a_duration_and_no_deadline_or_activity() -> None:
    step = StepRun(name="zeta", state=StepState.FAILED, deadline=500.0, since=103.0, attempts=(FAILED,))

    shown = run_view(run(RunState.FAILED, step), None, {"zeta": "training"}).steps[0]

    assert (shown.duration_s, shown.deadline, shown.activity) == (3.0, None, "")
    assert shown.attempts[0].ending is Ending.PROGRAM_FAILED
    assert shown.attempts[0].tail == "Traceback\nKeyError"


def test_a_step_takes_what_its_attempts_take_without_the_time_between_them() -> None:
    second = replace(FAILED, number=2, launched_at=900.0, started_at=900.0, ended_at=900.25)
    step = StepRun(name="zeta", state=StepState.FAILED, attempts=(FAILED, second))

    shown = run_view(run(RunState.FAILED, step), None).steps[0]

    assert shown.duration_s == 3.25
    assert (shown.started_at, shown.finished_at) == (moment(100.0), moment(900.25))


def test_a_list_says_in_a_few_words_what_goes_on() -> None:
    steps = (
        StepRun(name="alpha", state=StepState.WAITING, reason="waits for zeta"),
        StepRun(name="zeta", state=StepState.RUNNING, reason="running"),
    )

    summary = run_summary(run(RunState.RUNNING, *steps), WORKFLOW, {"zeta": "installing 38 packages"})

    assert summary.now == "zeta: installing 38 packages"
    assert (summary.steps_done, summary.steps_total) == (0, 2)


def test_only_steps_that_succeeded_are_done() -> None:
    steps = [StepRun(name=str(state), state=state) for state in StepState]

    failed = replace(run(RunState.FAILED, *steps), outputs={"short": "x", "long": "x" * 5000})
    summary = run_summary(failed)
    assert summary.outputs == {"short": "x"}

    assert (summary.steps_done, summary.steps_total) == (1, len(StepState))


@pytest.mark.parametrize(
    ("message", "step"),
    [
        ("step zeta failed: program failed: exit status 3", "zeta"),
        ("step alpha failed: program failed: exit status 3", "alpha"),
        ("step alpha failed: program failed: step zeta failed: no", "alpha"),
        ("cancelled by ann; before that, step zeta failed: program failed: exit status 3", "zeta"),
        ("the database was restored from a copy", "alpha"),
    ],
)
def test_the_step_that_the_message_names_is_the_failed_one_everywhere(message: str, step: str) -> None:
    steps = (
        StepRun(name="beta", state=StepState.FAILED, since=103.0, attempts=(FAILED,)),
        StepRun(name="zeta", state=StepState.FAILED, since=102.0, attempts=(FAILED,)),
        StepRun(name="alpha", state=StepState.FAILED, since=101.0, attempts=(FAILED,)),
    )
    failed = replace(run(RunState.FAILED, *steps), message=message)

    why = why_view(failed, None)
    assert run_view(failed, None).failed_step == step
    assert run_summary(failed).now == f"{step}: exit status 3"
    assert (why.headline, why.next[0]) == (f"run r1 of w: {step}: exit status 3", f"fuseml logs r1 {step}")


def test_values_of_credentials_are_hidden_wherever_they_are() -> None:
    credentials = Credentials(
        id="c", configuration={"KEY": CANARY, "FILE": SecretReference(from_file=f"/etc/{CANARY}")}
    )
    service = Service(id="s3", endpoints=(Endpoint(url="http://x"),), credentials=(credentials,))

    view = extension_view(Extension(id="e", services=(service,)), "e.yaml")

    assert view.services[0].credentials[0].configuration == {"KEY": "***", "FILE": "***"}
    assert CANARY.encode() not in msgspec.json.encode(view)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://git.example/a.git", "https://git.example/a.git"),
        (f"https://me:{CANARY}@git.example/a.git", "https://***@git.example/a.git"),
        (f"https://{CANARY}@git.example/a.git", "https://***@git.example/a.git"),
        ("ssh://git@git.example/a.git", "ssh://git@git.example/a.git"),
        (f"ssh://git:{CANARY}@git.example/a", "ssh://***@git.example/a"),
        ("git@git.example:a/b.git", "git@git.example:a/b.git"),
        ("https://git.example/a@b", "https://git.example/a@b"),
    ],
)
def test_credentials_in_a_url_are_not_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    assert codeset_view(Codeset(name="c", url=url)).url == shown


def test_a_workflow_is_shown_as_the_reference_does_with_what_was_written() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(workflow_view(WORKFLOW, "w.yaml")))

    assert shown["steps"][1] == {
        "name": "alpha",
        "image": "{{ steps.zeta.outputs.image }}",
        "inputs": [
            {"name": "code", "codeset": {"name": "a/b", "path": "/project"}},
            {"name": "n", "value": "1"},
            {"name": "nothing"},
        ],
        "extensions": [{"name": "store", "service_resource": "s3"}],
        "retry": {"limit": 2, "backoff_s": 10.0, "max_backoff_s": 600.0},
    }


def test_objects_of_an_application_become_the_references_resources() -> None:
    objects = ("serving.kserve.io/v1beta1/InferenceService/ml/iris", "v1/Secret/ml/iris-s3")

    made = Application(name="iris", type="predictor", url="http://x", objects=objects, copies=("s3://m/iris",))
    view = application_view(made)

    assert view.k8s_namespace == "ml"
    assert [(each.kind, each.name) for each in view.k8s_resources] == [
        ("InferenceService", "iris"),
        ("Secret", "iris-s3"),
    ]
    assert view.copies == ("s3://m/iris",)
