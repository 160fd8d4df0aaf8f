"""Design section 4, rule by rule."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fusemld.daemon.variables import (
    SECRETS_LENGTH,
    input_values,
    lookup,
    public,
    selectors,
    step_variables,
    variable,
)
from fusemld.engine.begin import new_run
from fusemld.engine.plan import make_plan
from fusemld.model.errors import InvalidInputError, StartError
from fusemld.model.extension import ResolvedService, ServiceAccess
from fusemld.model.run import Run
from fusemld.model.template import Reference, Template
from fusemld.model.workflow import Step, Workflow
from tests.daemon.running import document_of

WORKFLOW = """
name: train
inputs:
  - {{name: rounds, default: 1.50}}
  - {{name: code, type: codeset, default: lab/digits}}
  - {{name: unset}}
steps:
  - name: only
    image: host
    command: ["true"]
    {body}
"""


def step_of(body: str) -> tuple[Run, Step]:
    workflow = document_of(WORKFLOW.format(body=body)).declared
    assert isinstance(workflow, Workflow)
    run = new_run(make_plan(workflow), id="r1", created_at=1.0, inputs={"rounds": "1.50", "code": "lab/digits"})
    return run, workflow.steps[0]


def service(name: str, configuration: Mapping[str, str], *secret: str) -> ServiceAccess:
    resolved = ResolvedService(requirement=name, extension_id=f"{name}-id", service_id="s", url=f"http://{name}")
    return ServiceAccess(service=resolved, configuration=dict(configuration), secret_keys=frozenset(secret))


STORE = service("store", {"URL": "http://store", "KEY": "canary"}, "KEY")


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ("inputs: [{name: n-o.rounds, value: '{{ inputs.rounds }}'}]", "FUSEML_N_O_ROUNDS", "1.50"),
        ("inputs: [{name: text, value: 'a {{inputs.rounds}} b'}]", "FUSEML_TEXT", "a 1.50 b"),
        ("inputs: [{name: number, value: 1}]", "FUSEML_NUMBER", "1"),
        ("inputs: [{name: flag, value: false}]", "FUSEML_FLAG", "false"),
        ("outputs: [{name: first}, {name: second}]", "TASK_RESULT", "first"),
        ("", "FUSEML_ENV_WORKFLOW_NAME", "train"),
        ("", "FUSEML_ENV_WORKFLOW_NAMESPACE", "fuseml-workloads"),
        ("", "FUSEML_ENV_RUN_ID", "r1"),
        ("extensions: [{name: store, product: p}]", "URL", "http://store"),
        ("extensions: [{name: store, product: p}]\n    env: [{name: URL, value: mine}]", "URL", "mine"),
        ("env: [{name: FUSEML_ENV_RUN_ID, value: mine}]", "FUSEML_ENV_RUN_ID", "mine"),
    ],
)
def test_a_step_finds_its_variables(body: str, name: str, value: str) -> None:
    run, step = step_of(body)
    access = {"store": STORE} if step.extensions else {}

    found = step_variables(run, step, access, lookup(run, access))

    assert found.env[name] == value
    assert name not in found.secret_env


@pytest.mark.parametrize(
    ("body", "absent"),
    [
        ("inputs: [{name: code, codeset: {name: '{{ inputs.code }}', path: /project}}]", "FUSEML_CODE"),
        ("", "TASK_RESULT"),
        ("", "FUSEML_ROUNDS"),
        ("inputs: [{name: rounds}]", "FUSEML_ROUNDS"),
    ],
)
def test_what_the_step_does_not_have_is_not_set(body: str, absent: str) -> None:
    run, step = step_of(body)

    found = step_variables(run, step, {}, lookup(run, {}))

    assert absent not in found.env


def test_what_took_in_a_credential_is_secret_as_a_whole_and_everything_else_is_not() -> None:
    run, step = step_of(
        "extensions: [{name: store, product: p}]\n"
        "    inputs: [{name: dsn, value: 's3://{{ extensions.store.cfg.KEY }}@x'}]\n"
        "    env:\n"
        "      - {name: COPY, value: '{{ extension.store.cfg.KEY }}'}\n"
        "      - {name: URL2, value: '{{ extensions.store.url }}'}"
    )
    access = {"store": STORE}

    found = step_variables(run, step, access, lookup(run, access))

    assert found.secret_env == {"FUSEML_DSN": "s3://canary@x", "KEY": "canary", "COPY": "canary"}
    assert found.env["URL2"] == "http://store"
    assert found.secrets == {"canary", "s3://canary@x"}
    assert "canary" not in repr(found)


def test_a_credential_is_masked_also_where_the_step_replaces_its_variable() -> None:
    run, step = step_of("extensions: [{name: store, product: p}]\n    env: [{name: KEY, value: harmless}]")
    access = {"store": STORE}

    found = step_variables(run, step, access, lookup(run, access))

    assert found.env["KEY"] == "harmless"
    assert found.secrets == {"canary"}


def test_of_two_requirements_that_differ_the_later_wins_with_a_warning() -> None:
    run, step = step_of("extensions: [{name: store, product: p}, {name: other, product: q}]")
    access = {"store": STORE, "other": service("other", {"URL": "http://other"})}

    found = step_variables(run, step, access, lookup(run, access))

    assert found.env["URL"] == "http://other"
    assert found.warnings == ("extensions 'store' and 'other' set 'URL' differently: 'other' wins",)


def test_a_credential_is_refused_where_others_would_see_it() -> None:
    run, _ = step_of("")
    template = Template(("run ", Reference(("extensions", "store", "cfg", "KEY"))))

    with pytest.raises(StartError, match="in args: it holds a value from credentials") as error:
        public(template, lookup(run, {"store": STORE}), "args")

    assert "canary" not in str(error.value)


def test_a_configuration_value_that_is_not_there_is_named_with_those_that_are() -> None:
    run, step = step_of(
        "extensions: [{name: store, product: p}]\n    env: [{name: A, value: '{{ extensions.store.cfg.NOPE }}'}]"
    )
    access = {"store": STORE}

    with pytest.raises(StartError, match=r"store-id/s has no configuration value 'NOPE' \(it has: KEY, URL\)"):
        step_variables(run, step, access, lookup(run, access))


@pytest.mark.parametrize("configuration", [{"A": "x\0y"}, {"A=B": "x"}, {"": "x"}])
def test_what_no_environment_can_hold_is_refused(configuration: dict[str, str]) -> None:
    run, step = step_of("extensions: [{name: store, product: p}]")
    access = {"store": service("store", configuration)}

    with pytest.raises(StartError, match="cannot set"):
        step_variables(run, step, access, lookup(run, access))


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_put_together_with_credentials_is_limited(count: int) -> None:
    half = "x" * (SECRETS_LENGTH // 2)
    variables = ", ".join(
        f"{{name: V{number}, value: '{number}{{{{ extensions.store.cfg.KEY }}}}{half}'}}"
        for number in range(count)
    )
    run, step = step_of(f"extensions: [{{name: store, product: p}}]\n    env: [{variables}]")
    access = {"store": STORE}

    if count == 1:
        assert f"0canary{half}" in step_variables(run, step, access, lookup(run, access)).secrets
    else:
        with pytest.raises(StartError, match="cannot set V1: with it, what is put together with credentials has"):
            step_variables(run, step, access, lookup(run, access))


def test_a_selector_is_not_longer_than_a_name() -> None:
    run, step = step_of("extensions: [{name: store, product: '" + "{{ inputs.code }}" * 500 + "'}]")

    with pytest.raises(InvalidInputError, match=r"cannot render .* more than the 4,096 characters"):
        selectors(step.extensions[0], run)


def test_the_value_of_a_codeset_input_is_its_reference() -> None:
    run, step = step_of("inputs: [{name: code, codeset: {name: '{{ inputs.code }}', path: /project}}]")

    values = input_values(step, lookup(run, {}))

    assert {name: value.text for name, value in values.items()} == {"code": "lab/digits"}


def test_selectors_are_rendered_and_an_empty_one_is_none() -> None:
    run, step = step_of("extensions: [{name: store, product: 'p-{{ inputs.rounds }}', zone: ''}]")

    found = selectors(step.extensions[0], run)

    assert (found.name, found.product, found.zone, found.version) == ("store", "p-1.50", None, None)


def test_names_of_inputs_become_names_of_variables() -> None:
    assert [variable(name) for name in ("a", "a-b.c", "A_b")] == ["FUSEML_A", "FUSEML_A_B_C", "FUSEML_A_B"]
