import pytest
from fusemld_mlflow.runtimes import BUILDER

from fusemld.hooks.manager import load_plugins
from fusemld.model.errors import StartError


@pytest.mark.parametrize("tag", ["", ":latest", ":v0.3.0"])
def test_where_steps_are_containers_the_builder_says_what_to_do_instead(tag: str) -> None:
    runtime = load_plugins().pod_runtimes[BUILDER]

    with pytest.raises(StartError) as raised:
        runtime.image(BUILDER + tag)

    assert str(raised.value).startswith(f"cannot run {BUILDER}{tag}: building trainer images on a cluster is not")
    assert "as the `image` of the step that trains" in str(raised.value)


def test_the_builder_s_own_inputs_are_no_reason_to_refuse_the_workflow_before() -> None:
    assert load_plugins().pod_runtimes[BUILDER].inputs.open
