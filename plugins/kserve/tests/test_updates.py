from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest
from fusemld_kserve.manifests import service_place
from fusemld_kserve.updates import Update, UpdateFile, begin

from fusemld.hooks.clusters import Json
from fusemld.model.application import Application
from fusemld.model.errors import StartError

PLACE = service_place("app", "models")
SERVER = "https://one"


def service(run: str) -> Json:
    return {
        "metadata": {
            "name": "app",
            "namespace": "models",
            "annotations": {"fusemld.io/run": run},
            "resourceVersion": "7",
            "uid": "u",
        },
        "spec": {"of": run},
        "status": {"url": "x"},
    }


def recorded(run: str, *objects: str) -> Application:
    return Application(name="app", type="predictor", url="http://x", run=run, objects=objects)


def started(
    known: Update | None, run: str, found: Json | None, record: Application | None, server: str = SERVER
) -> Update | None:
    return begin(known, run=run, server=server, place=PLACE, service=found, recorded=record)


def of_run(update: Update | None) -> str | None:
    assert update is not None
    return None if update.previous is None else update.previous["spec"]["of"]


def test_a_first_update_has_nothing_to_go_back_to() -> None:
    update = started(None, "r1", None, None)

    assert update == Update(run="r1", server=SERVER, service=PLACE.reference)


def test_an_update_goes_back_to_the_service_as_it_was_without_what_the_server_adds() -> None:
    update = started(None, "r2", service("r1"), recorded("r1", "v1/Secret/models/old", PLACE.reference))

    assert update is not None
    assert update.previous == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "app", "namespace": "models", "annotations": {"fusemld.io/run": "r1"}},
        "spec": {"of": "r1"},
    }
    assert update.leftovers == ("v1/Secret/models/old",)


def test_a_run_that_goes_on_after_a_restart_keeps_what_it_remembered() -> None:
    first = started(None, "r2", service("r1"), recorded("r1", "v1/Secret/models/old"))

    assert started(first, "r2", service("r2"), recorded("r1")) == first
    assert started(first, "r2", service("r2"), recorded("r2")) == first, "recorded, but not tidied up"


def test_a_run_that_was_recorded_and_tidied_up_has_nothing_to_go_back_to() -> None:
    assert started(None, "r2", service("r2"), recorded("r2")) is None


def test_after_an_update_that_never_succeeded_the_next_goes_back_to_what_served_before_both() -> None:
    failed = started(None, "r2", service("r1"), recorded("r1", "v1/Secret/models/old"))

    update = started(failed, "r3", service("r2"), recorded("r1", "v1/Secret/models/old"))

    assert of_run(update) == "r1"
    assert update is not None
    assert update.leftovers == ("v1/Secret/models/old",)
    assert update.failed == ("r2",)
    third = started(update, "r4", service("r2"), recorded("r1"))
    assert (of_run(third), third and third.failed) == ("r1", ("r2", "r3"))


def test_nothing_is_brought_back_that_somebody_deleted_meanwhile() -> None:
    failed = started(None, "r2", service("r1"), recorded("r1"))

    assert of_run(started(failed, "r3", None, None)) is None


def test_after_an_update_that_was_not_tidied_up_the_next_goes_back_to_it_and_tidies_up_both() -> None:
    untidy = started(None, "r2", service("r1"), recorded("r1", "v1/Secret/models/old"))

    update = started(untidy, "r3", service("r2"), recorded("r2", "v1/Secret/models/two"))

    assert of_run(update) == "r2"
    assert update is not None
    assert set(update.leftovers) == {"v1/Secret/models/old", "v1/Secret/models/two"}


def test_what_is_remembered_of_another_cluster_means_nothing_here() -> None:
    elsewhere = started(None, "r1", service("r0"), recorded("r0"), server="https://two")

    assert of_run(started(elsewhere, "r2", service("r1"), recorded("r1"))) == "r1"


def test_an_update_is_remembered_on_disk_and_for_nobody_else(tmp_path: Path) -> None:
    file = UpdateFile(tmp_path, "app")
    update = started(None, "r2", service("r1"), recorded("r1"))
    assert update is not None
    assert file.read() is None

    file.write(update)

    assert UpdateFile(tmp_path, "app").read() == update
    assert UpdateFile(tmp_path, "other").read() is None
    assert stat.S_IMODE((tmp_path / "kserve").stat().st_mode) == 0o700
    file.remove()
    file.remove()
    assert file.read() is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = UpdateFile(tmp_path, "app")
    file.write(Update(run="r", server="s", service="x"))
    (tmp_path / "kserve" / "app.json").write_bytes(msgspec.json.encode({"run": 1}))

    with pytest.raises(StartError, match=r"cannot read .*app\.json"):
        file.read()
