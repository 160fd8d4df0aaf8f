from __future__ import annotations

import getpass
import subprocess
from collections.abc import Callable

import pytest

from fusemld.api import registry_views
from fusemld.model.extension import ResolvedService
from tests.api.memory import MemoryOperations

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_an_explanation_shows_what_was_picked_and_what_was_not(fuseml: Cli, operations: MemoryOperations) -> None:
    miss = registry_views.NearMissView(
        extension_id="old", service_id="s3", selector="version", reason="1.0 is not >=2"
    )
    requirement = registry_views.ExplainedRequirement(
        step="train",
        requirement="store",
        wanted={"version": ">=2"},
        unknown=("product",),
        reason="no record has that version",
        near_misses=(miss,),
    )
    operations.explanation = registry_views.ExplanationView(
        workflow="w", project="default", user="ada", requirements=(requirement,)
    )

    done = fuseml("extension", "explain", "w")

    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == [
        "train: store (wants version >=2, product not known before there is a run)",
        "  nothing fits: no record has that version",
        "  not old/s3: version: 1.0 is not >=2",
    ]


def test_an_explanation_says_that_a_pick_is_not_certain(fuseml: Cli, operations: MemoryOperations) -> None:
    picked = ResolvedService(requirement="store", extension_id="minio", service_id="main", url="http://minio:9000")
    requirement = registry_views.ExplainedRequirement(
        step="train", requirement="store", wanted={}, unknown=("product",), picked=picked
    )
    operations.explanation = registry_views.ExplanationView(
        workflow="w", project="default", user="ada", requirements=(requirement,)
    )

    done = fuseml("extension", "explain", "w")

    assert done.stdout.splitlines()[2:] == [
        "train: store (wants product not known before there is a run)",
        "  picked minio/main http://minio:9000, as far as that can be known",
    ]


@pytest.mark.parametrize(
    ("options", "project", "user"),
    [((), "None", getpass.getuser()), (("--project", "team-a", "--user", "ann"), "'team-a'", "ann")],
)
def test_a_record_is_checked_as_for_a_run_of_a_project_and_user(
    fuseml: Cli, operations: MemoryOperations, options: tuple[str, ...], project: str, user: str
) -> None:
    done = fuseml("extension", "check", "vault", *options)

    assert done.returncode == 0
    assert operations.asked == [("check", "vault", project, user)]
