"""The Extension Registry as users meet it: listed, explained, checked, refused, and arriving in a step."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon

pytestmark = pytest.mark.acceptance

CANARY = "canary-9f1e"

TRACKER = f"""\
id: tracker
product: acme
version: v1.10.3
zone: local
description: the tracker of the lab
configuration: {{ACME_LEVEL: extension, ACME_A: extension}}
services:
  - id: main
    resource: acme-tracking
    category: experiment-tracking
    auth_required: true
    configuration: {{ACME_LEVEL: service, ACME_B: service}}
    endpoints:
      - url: http://tracker.internal:80
        type: internal
        configuration: {{ACME_LEVEL: endpoint, ACME_URL: http://tracker.internal:80}}
      - {{url: https://tracker.example.org, type: external}}
    credentials:
      - {{id: everybody, scope: global, configuration: {{ACME_TOKEN: {CANARY}-global}}}}
      - {{id: team, scope: project, projects: [demo], configuration: {{ACME_TOKEN: {CANARY}-project}}}}
"""


def needing(name: str, selectors: str, command: str = "env | grep ^ACME_ | sort; true", codeset: str = "") -> str:
    mount = f"    inputs: [{{name: code, codeset: {{name: {codeset}, path: /project}}}}]\n" if codeset else ""
    return (
        f"name: {name}\nsteps:\n  - name: only\n    image: host\n    command: [sh, -c, '{command}']\n{mount}"
        f"    extensions:\n      - {{name: it, {selectors}}}\n"
    )


def register(daemon: Daemon, *documents: str) -> None:
    """Drop extension records and wait until they are in force."""
    for document in documents:
        daemon.drop(f"{document.splitlines()[0].removeprefix('id: ')}.yaml", document)
    ids = {document.splitlines()[0].removeprefix("id: ") for document in documents}
    daemon.wait_for(lambda: ids <= {entry["id"] for entry in daemon.json("extension", "list")}, 10, f"{ids}")


def finished(daemon: Daemon, name: str, document: str) -> dict[str, Any]:
    daemon.drop(f"{name}.yaml", document)
    return daemon.finished(daemon.run_of(f"{name}.yaml"))


def words(text: str) -> str:
    """Text as it was before it was wrapped."""
    return " ".join(text.split())


def test_records_are_listed_shown_and_explained_and_credentials_stay_hidden(daemon: Daemon) -> None:
    daemon.start()
    register(daemon, TRACKER)
    daemon.drop("w.yaml", needing("w", "product: acme, service_resource: acme-tracking"))
    daemon.run_of("w.yaml")

    listed = daemon.run("fuseml", "extension", "list").stdout
    shown = daemon.run("fuseml", "extension", "get", "tracker").stdout
    raw = daemon.run("fuseml", "extension", "get", "tracker", "-o", "json").stdout
    explained = daemon.run("fuseml", "extension", "explain", "w").stdout
    missed = daemon.run("fuseml", "extension", "get", "traker", check=False)

    for text in (listed, shown, raw, explained, daemon.journal()):
        assert CANARY not in text
    assert "acme-tracking" in listed
    assert "v1.10.3" in listed
    assert "credentials team (project: demo)" in shown
    assert "ACME_TOKEN=***" in shown
    assert "only: it (wants product acme, service_resource acme-tracking)" in explained
    assert "picked tracker/main http://tracker.internal:80" in explained
    assert missed.returncode == 3
    assert "did you mean 'tracker'?" in missed.stderr


def test_values_arrive_in_the_environment_narrowest_last_and_masked_in_the_log(daemon: Daemon) -> None:
    daemon.start()
    source = daemon.codesets / "code"
    source.mkdir()
    (source / "file").write_text("x\n")
    daemon.drop("code.yaml", f"name: code\nproject: demo\npath: {source}\n")
    register(daemon, TRACKER)
    proof = daemon.base / "proof"
    command = f"env | grep ^ACME_ | sort; printf %s $ACME_TOKEN > {proof}"

    outside = finished(daemon, "outside", needing("outside", "product: acme", command))
    outside_token = proof.read_text()
    inside = finished(daemon, "inside", needing("inside", "product: acme", command, codeset="demo/code"))
    inside_token = proof.read_text()

    assert outside["state"] == inside["state"] == "succeeded"
    assert (outside_token, inside_token) == (f"{CANARY}-global", f"{CANARY}-project")
    assert daemon.run("fuseml", "logs", inside["id"], "only").stdout.splitlines() == [
        "ACME_A=extension",
        "ACME_B=service",
        "ACME_LEVEL=endpoint",
        "ACME_TOKEN=***",
        "ACME_URL=http://tracker.internal:80",
    ]
    (service,) = inside["steps"][0]["services"]
    assert (service["extension_id"], service["service_id"], service["url"], service["credentials_id"]) == (
        "tracker",
        "main",
        "http://tracker.internal:80",
        "team",
    )


CONSTRAINTS = {
    "v1.10.3": True,
    "1.10.3": True,
    ">=1.0,<1.11": True,
    "~1.10.0": True,
    "^1.2": True,
    "^2": False,
    ">1.10.3": False,
    "1.10": False,
}


def test_version_constraints_are_explained(daemon: Daemon) -> None:
    daemon.start()
    register(daemon, TRACKER)
    for number, constraint in enumerate(CONSTRAINTS):
        daemon.drop(f"v{number}.yaml", needing(f"v{number}", f"product: acme, version: '{constraint}'", "true"))
    daemon.wait_for(lambda: len(daemon.json("workflow", "list")) == len(CONSTRAINTS), 10, "the workflows")

    explained = [
        daemon.run("fuseml", "extension", "explain", f"v{number}", check=False)
        for number in range(len(CONSTRAINTS))
    ]

    for (constraint, fits), done in zip(CONSTRAINTS.items(), explained, strict=True):
        assert done.returncode == (0 if fits else 1), constraint
        assert ("picked tracker/main" in done.stdout) is fits
        refusal = f"its version is 'v1.10.3', and '{constraint}' is required"
        assert (refusal in words(done.stdout)) is not fits


def test_a_record_that_nearly_matches_is_an_error_that_says_why_and_never_replaced(daemon: Daemon) -> None:
    daemon.start()
    store = "id: store\nproduct: minio\nversion: 1.0\nservices: [{id: s3, resource: s3, auth_required: true}]\n"
    register(daemon, TRACKER, store)

    version = finished(daemon, "version", needing("version", "product: acme, version: ^2"))
    resource = finished(daemon, "resource", needing("resource", "product: acme, service_resource: acme-store"))
    credentials = finished(daemon, "credentials", needing("credentials", "service_resource: s3"))
    nothing = finished(daemon, "nothing", needing("nothing", "product: unheard-of"))
    reasons = {
        run["workflow"]: words(daemon.run("fuseml", "why", run["id"]).stdout)
        for run in (version, resource, credentials, nothing)
    }

    garbled = finished(daemon, "garbled", needing("garbled", "product: acme, version: '>= 1.0 <'"))

    assert {run["state"] for run in (version, resource, credentials, nothing, garbled)} == {"failed"}
    assert "is no version constraint" in words(daemon.run("fuseml", "why", garbled["id"]).stdout)
    assert "tracker/main: its version is 'v1.10.3', and '^2' is required" in reasons["version"]
    assert "its resource is 'acme-tracking', and 'acme-store' is required" in reasons["resource"]
    assert "store/s3: it needs authentication" in reasons["credentials"]
    assert "add credentials of a scope that covers them" in reasons["credentials"]
    assert "drop an extension record into the watched folder" in reasons["nothing"]
    assert daemon.json("services") == [], "the embedded store is no replacement for a record that nearly matches"


def test_zones_decide_which_endpoint_a_step_may_use(daemon: Daemon) -> None:
    daemon.start()
    far = TRACKER.replace("id: tracker", "id: far").replace("zone: local", "zone: cluster")
    endpoint = "{url: http://h, type: internal}"
    hidden = f"id: hidden\nproduct: hid\nzone: cluster\nservices: [{{id: s, endpoints: [{endpoint}]}}]\n"
    register(daemon, far, hidden)

    other = finished(daemon, "other", needing("other", "product: acme"))
    own = finished(daemon, "own", needing("own", "product: acme, zone: cluster"))
    none = finished(daemon, "none", needing("none", "product: hid"))
    register(daemon, TRACKER)
    near = finished(daemon, "near", needing("near", "product: acme"))

    urls = {run["workflow"]: run["steps"][0]["services"][0]["url"] for run in (other, own, near)}
    assert urls == {
        "other": "https://tracker.example.org",
        "own": "http://tracker.internal:80",
        "near": "http://tracker.internal:80",
    }
    assert near["steps"][0]["services"][0]["extension_id"] == "tracker"
    assert none["state"] == "failed"
    why = words(daemon.run("fuseml", "why", none["id"]).stdout)
    assert "its endpoints are internal to the zone 'cluster', and the step is in the zone 'local'" in why


def test_credentials_of_a_user_win_over_those_of_a_project_and_others_are_refused(daemon: Daemon) -> None:
    daemon.start()
    me = getpass.getuser()
    proof = daemon.base / "proof"
    command = f"printf %s $WHO > {proof}"
    mine = (
        "id: mine\nproduct: mine\nservices:\n  - id: s\n    auth_required: true\n    credentials:\n"
        "      - {id: a-global, scope: global, default: true, configuration: {WHO: all-of-us}}\n"
        "      - {id: b-project, scope: project, projects: [default], configuration: {WHO: this-project}}\n"
        f"      - {{id: c-user, scope: user, users: ['{me}'], configuration: {{WHO: that-is-me}}}}\n"
    )
    theirs = (
        "id: theirs\nproduct: theirs\nservices:\n  - id: s\n    auth_required: true\n    credentials:\n"
        "      - {id: one, scope: user, users: [somebody-else], configuration: {WHO: somebody}}\n"
    )
    register(daemon, mine, theirs)

    won = finished(daemon, "won", needing("won", "product: mine", command))
    refused = finished(daemon, "refused", needing("refused", "product: theirs", command))
    explained = daemon.run("fuseml", "extension", "explain", "refused", "--user", "somebody-else")

    assert won["state"] == "succeeded"
    assert proof.read_text() == "that-is-me"
    assert refused["state"] == "failed"
    assert f"none of its credentials is for user '{me}'" in words(
        daemon.run("fuseml", "why", refused["id"]).stdout
    )
    assert "picked theirs/s" in explained.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_dropped_file_acts_for_the_user_who_owns_it(daemon: Daemon) -> None:
    daemon.start()
    register(
        daemon,
        "id: mine\nproduct: mine\nservices:\n  - id: s\n    auth_required: true\n    credentials:\n"
        "      - {id: one, scope: user, users: [nobody], configuration: {WHO: me}}\n",
    )
    others = daemon.base / "others.yaml"
    others.write_text(needing("others", "product: mine", "true"))
    shutil.chown(others, "nobody")

    mine = finished(daemon, "mine-not", needing("mine-not", "product: mine", "true"))
    others.rename(daemon.folder / "others.yaml")
    theirs = daemon.finished(daemon.run_of("others.yaml"))

    assert (mine["user"], mine["state"]) == (getpass.getuser(), "failed")
    assert (theirs["user"], theirs["state"]) == ("nobody", "succeeded")


def test_values_kept_elsewhere_are_refused_unless_the_settings_allow_them(daemon: Daemon, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "token").write_text(f"{CANARY}-file\n")
    (kept / "out").symlink_to("/etc/hostname")
    daemon.environment["LAB_TOKEN"] = f"{CANARY}-env"

    def record(id_: str, reference: str) -> str:
        return (
            f"id: {id_}\nproduct: {id_}\nservices:\n  - id: s\n    credentials:\n"
            f"      - {{id: c, configuration: {{ACME_TOKEN: {{{reference}}}}}}}\n"
        )

    daemon.start()
    register(daemon, record("env", "from_env: LAB_TOKEN"), record("file", f"from_file: {kept}/token"))
    refused = {
        name: finished(daemon, f"no-{name}", needing(f"no-{name}", f"product: {name}")) for name in ("env", "file")
    }
    why = {name: words(daemon.run("fuseml", "why", run["id"]).stdout) for name, run in refused.items()}
    daemon.terminate()
    daemon.start(SECRETS_ENV="LAB_TOKEN", SECRETS_FILES=str(kept))
    register(daemon, record("link", f"from_file: {kept}/out"), record("other", "from_env: HOME"))
    proof = daemon.base / "proof"
    command = f"printf %s $ACME_TOKEN > {proof}; echo $ACME_TOKEN"
    allowed: dict[str, str] = {}
    for name in ("env", "file"):
        run = finished(daemon, f"yes-{name}", needing(f"yes-{name}", f"product: {name}", command))
        assert daemon.run("fuseml", "logs", run["id"], "only").stdout == "***\n"
        allowed[name] = proof.read_text()
    still = [
        finished(daemon, f"still-{name}", needing(f"still-{name}", f"product: {name}"))
        for name in ("link", "other")
    ]

    assert {run["state"] for run in (*refused.values(), *still)} == {"failed"}
    assert "setting secrets.env" in why["env"]
    assert "LAB_TOKEN" in why["env"]
    assert "setting secrets.files" in why["file"]
    assert allowed == {"env": f"{CANARY}-env", "file": f"{CANARY}-file"}
    assert CANARY not in daemon.journal()
    assert CANARY not in "".join(why.values())


def test_a_step_without_a_requirement_gets_no_variable_of_a_record_nor_of_the_daemon(daemon: Daemon) -> None:
    daemon.environment["LAB_TOKEN"] = f"{CANARY}-env"
    daemon.start()
    register(daemon, TRACKER)

    run = finished(daemon, "bare", "name: bare\nsteps:\n  - {name: only, image: host, command: [sh, -c, env]}\n")

    log = daemon.run("fuseml", "logs", run["id"], "only").stdout
    assert "ACME_" not in log
    assert "LAB_TOKEN" not in log
    own = [line.partition("=")[0] for line in log.splitlines() if line.startswith("FUSEMLD_")]
    assert own in ([], ["FUSEMLD_ATTEMPT"]), "but for the mark by which the keeper knows its processes"


def test_two_requirements_that_disagree_take_the_later_value_and_the_run_warns(daemon: Daemon) -> None:
    daemon.start()
    register(
        daemon,
        "id: one\nproduct: one\nconfiguration: {ACME_X: first, ACME_Y: same}\nservices: [{id: s}]\n",
        "id: two\nproduct: two\nconfiguration: {ACME_X: second, ACME_Y: same}\nservices: [{id: s}]\n",
    )

    document = needing("both", "product: one") + "      - {name: other, product: two}\n"
    run = finished(daemon, "both", document)

    assert daemon.run("fuseml", "logs", run["id"], "only").stdout == "ACME_X=second\nACME_Y=same\n"
    (warning,) = run["steps"][0]["warnings"]
    assert "ACME_X" in warning
    assert "ACME_X" in daemon.run("fuseml", "get", run["id"]).stdout


def test_a_service_that_moved_is_picked_up_by_the_next_step(daemon: Daemon) -> None:
    daemon.start()
    register(daemon, "id: mover\nproduct: mover\nservices: [{id: s, endpoints: [{url: http://old}]}]\n")
    gate = daemon.base / "gate"
    step = (
        "  - name: {name}\n    image: host\n    command: [sh, -c, '{command}']\n"
        '    env: [{{name: URL, value: "{{{{ extensions.it.url }}}}"}}]\n'
        "    extensions: [{{name: it, product: mover}}]\n"
    )
    wait = f"echo $URL; until test -e {gate}; do sleep 0.05; done"
    daemon.drop(
        "w.yaml",
        "name: w\nsteps:\n" + step.format(name="one", command=wait) + step.format(name="two", command="echo $URL"),
    )
    run = daemon.run_of("w.yaml")
    daemon.in_state(run, "one", "running")

    daemon.drop("mover.yaml", "id: mover\nproduct: mover\nservices: [{id: s, endpoints: [{url: http://new}]}]\n")
    daemon.wait_for(
        lambda: "http://new" in daemon.run("fuseml", "extension", "list").stdout, 10, "the new address"
    )
    gate.touch()
    daemon.finished(run)

    assert daemon.run("fuseml", "logs", run, "one").stdout == "http://old\n"
    assert daemon.run("fuseml", "logs", run, "two").stdout == "http://new\n"


def test_check_asks_the_live_service_and_says_what_is_wrong(daemon: Daemon) -> None:
    daemon.start()
    dead = (
        "id: dead\nproduct: s3\nservices:\n  - id: s3\n    resource: s3\n"
        "    endpoints: [{url: 'http://127.0.0.1:9', configuration: {AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:9'}}]\n"
        f"    credentials: [{{id: c, configuration: {{AWS_ACCESS_KEY_ID: a, AWS_SECRET_ACCESS_KEY: {CANARY}}}}}]\n"
    )
    register(daemon, dead, TRACKER)

    unreachable = daemon.run("fuseml", "extension", "check", "dead", check=False)
    unknown = daemon.run("fuseml", "extension", "check", "tracker")
    missing = daemon.run("fuseml", "extension", "check", "nobody", check=False)

    assert unreachable.returncode == 1
    assert "fail" in unreachable.stdout
    assert "127.0.0.1:9" in unreachable.stdout
    assert CANARY not in unreachable.stdout + unreachable.stderr
    assert "not checked: no plugin knows services of resource 'acme-tracking'" in words(unknown.stdout)
    assert missing.returncode == 3
