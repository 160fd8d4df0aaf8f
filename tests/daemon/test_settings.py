"""Settings come from a file, then variables, then flags, and say where they came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.daemon.settings import Loaded, load_settings
from fusemld.model.errors import InvalidInputError


def load(tmp_path: Path, text: str = "", flags: dict[str, str] | None = None, **environ: str) -> Loaded:
    config = tmp_path / "config.toml"
    config.write_text(text)
    return load_settings(config, flags, {"FUSEMLD_STATE": str(tmp_path / "state"), **environ})


def test_defaults_need_nothing_but_an_environment(tmp_path: Path) -> None:
    loaded = load_settings(None, None, {"HOME": str(tmp_path), "FUSEMLD_STATE": str(tmp_path)})

    assert loaded.settings.state == tmp_path
    assert loaded.settings.folder == tmp_path / "inbox"
    assert loaded.settings.executor == "process"
    assert loaded.origins["limits.steps"] == ("16", "default")


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    text = 'executor = "process"\n[limits]\nsteps = 2\nsteps_per_workflow = 3\n[steps]\ngrace_s = 4\n'

    loaded = load(tmp_path, text, {"limits.steps": "9"}, FUSEMLD_LIMITS_STEPS="7", FUSEMLD_STEPS_GRACE_S="5.5")

    assert loaded.settings.limits.steps == 9
    assert loaded.settings.limits.steps_per_workflow == 3
    assert loaded.settings.steps.grace_s == 5.5
    assert loaded.origins["limits.steps"] == ("9", "flag --set limits.steps=")
    assert loaded.origins["steps.grace_s"] == ("5.5", "FUSEMLD_STEPS_GRACE_S")
    assert loaded.origins["limits.steps_per_workflow"][1].endswith("config.toml")


def test_lists_and_tables_can_be_variables(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        FUSEMLD_CODESETS_ROOTS="/srv/code, /home/ml",
        FUSEMLD_PROCESS_IMAGES='{"busybox": ["sh", "-c"]}',
    )

    assert loaded.settings.codesets.roots == (Path("/srv/code"), Path("/home/ml"))
    assert loaded.settings.process.images == {"busybox": ("sh", "-c")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nstep = 2\n", "there is no setting 'limits.step'; did you mean 'limits.steps'?"),
        ("[limits]\nsteps = 'many'\n", "cannot read setting limits.steps from"),
        ("[limits]\nsteps = -1\n", "-1 is below 0"),
        ("[steps]\ntimeout_s = inf\n", "inf is not a finite number"),
        ("[watchdog]\nlag_s = -inf\n", "-inf is not a finite number"),
        ("[kubernetes]\nnode_lost_after_s = nan\n", "nan is not a finite number"),
        ("[retention]\nruns_s = 315360001\n", "315360001.0 is above 315360000 (ten years)"),
        ('executor = "docker"\n', "cannot read setting executor from"),
        ('executor = "docker"\n', "'docker' is not one of 'process', 'kubernetes'"),
        ('executor = "kubernets"\n', "did you mean 'kubernetes'?"),
        ("executor = 3\n", "3 is not one of 'process', 'kubernetes'"),
        ("executor = ['process']\n", "['process'] is not one of"),
        ('[log]\nlevel = "warn"\n', "'error'; did you mean 'warning'?"),
        ("limits = [\n", "cannot read settings from"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        load(tmp_path, text)

    assert message in str(error.value)
    assert "config.toml" in str(error.value)


@pytest.mark.parametrize("text", ["inf", "NaN", "1e999", "1e12"])
def test_a_variable_that_is_no_duration_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"cannot read setting steps\.timeout_s from FUSEMLD_STEPS_TIMEOUT_S"
    ):
        load(tmp_path, FUSEMLD_STEPS_TIMEOUT_S=text)


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no setting 'sokket'; did you mean 'socket'"):
        load(tmp_path, flags={"sokket": "/x"})


def test_lists_of_tables_are_json_in_variables() -> None:
    loaded = load_settings(
        environ={
            "FUSEMLD_KUBERNETES_TOLERATIONS": '[{"key": "gpu", "operator": "Exists"}]',
            "FUSEMLD_KUBERNETES_IMAGE_PULL_SECRETS": "one, two",
            "FUSEMLD_KUBERNETES_KUBECONFIG": "/etc/fusemld/kubeconfig",
        }
    )

    assert loaded.settings.kubernetes.tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert loaded.settings.kubernetes.image_pull_secrets == ("one", "two")
    assert loaded.settings.kubernetes.kubeconfig == Path("/etc/fusemld/kubeconfig")


def test_an_optional_path_that_is_not_set_is_shown_empty() -> None:
    assert load_settings(environ={}).origins["kubernetes.kubeconfig"] == ("", "default")


def test_the_name_of_a_pull_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"kubernetes\.image_pull_policy from FUSEMLD_KUBERNETES_IMAGE_PULL"
    ):
        load_settings(environ={"FUSEMLD_KUBERNETES_IMAGE_PULL_POLICY": "Sometimes"})


@pytest.mark.parametrize(
    "name",
    [
        "intake.rescan_s", "codesets.poll_s", "watchdog.look_s", "kubernetes.request_timeout_s",
        "kubernetes.watch_silence_s", "kubernetes.relist_s",
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", ["0", "0.001", "nan", "-1"])
def test_a_period_without_a_pause_is_refused_with_the_smallest_that_is_allowed(name: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"cannot read setting {name} from .*>= 0\.1"):
        load_settings(flags={name: text}, environ={})


@pytest.mark.parametrize("name", ["retention.every_s", "retention.runs_s", "limits.steps_per_workflow"])
def test_where_0_is_off_it_is_taken(name: str) -> None:
    assert load_settings(flags={name: "0"}, environ={}).origins[name][0] in ("0", "0.0")


def test_a_duration_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nan is not a finite number"):
        load_settings(flags={"steps.grace_s": "nan"}, environ={})


def test_a_setting_names_the_flag_that_there_is(tmp_path: Path) -> None:
    given = {"state": str(tmp_path), "log.format": "json", "limits.steps": "2"}

    origins = load_settings(flags=given, environ={}).origins

    assert [origins[name][1] for name in given] == [
        "flag --state",
        "flag --log-format",
        "flag --set limits.steps=",
    ]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("FUSEMLD_EXECUTER", "; did you mean 'FUSEMLD_EXECUTOR'?"),
        ("FUSEMLD_LIMIT_STEPS", "; did you mean 'FUSEMLD_LIMITS_STEPS'?"),
        ("FUSEMLD_SOKET", "; did you mean 'FUSEMLD_SOCKET'?"),
        ("FUSEMLD_", ""),
    ],
)
def test_a_variable_that_no_setting_has_is_refused(variable: str, hint: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        load_settings(environ={variable: "x"})

    assert str(error.value).startswith(f"cannot read settings: no setting has the variable '{variable}'{hint}")


def test_variables_that_are_no_settings_are_left_alone() -> None:
    others = {
        "FUSEMLD_FAULT": "folder.noticed",
        "FUSEMLD_TEST_CACHE": "/c",
        "FUSEMLD_ATTEMPT": "step/r/s/1",
        "FUSEMLD_ENVIRONMENTS": "/e",
        "FUSEMLD_SERVICE_HOST": "10.0.0.1",
        "FUSEMLD_SERVICE_PORT_HTTP": "80",
        "FUSEMLD_PORT": "tcp://10.0.0.1:80",
        "FUSEMLD_METRICS_PORT_9090_TCP_ADDR": "10.0.0.2",
        "FUSEMLD_EXECUTER": "",
        "FUSEMLD_HF_TOKEN": "t",
        "FUSEMLD_SITE": "s",
    }
    flags = {"secrets.env": "FUSEMLD_HF_TOKEN", "process.pass_env": "FUSEMLD_SITE"}

    settings = load_settings(flags=flags, environ=others).settings

    assert settings.executor == "process"
