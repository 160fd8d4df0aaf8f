from __future__ import annotations

from typing import Any

import pytest
from fusemld_kserve.readiness import Phase, base_url, failure, judge, workload_place

from fusemld.hooks.clusters import Json

READY = {"type": "Ready", "status": "True"}
URL = "http://app.models.example.com"
RUN = "r1"


def service(*conditions: Json, generation: int = 2, **status: Any) -> Json:
    return {
        "metadata": {"name": "app", "namespace": "models", "generation": generation},
        "status": {"conditions": list(conditions), **status},
    }


def condition(kind: str, status: str, reason: str = "", message: str = "", **more: str) -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, **more}


def deployment(run: str = RUN, *, generation: int = 3, seen: int = 3, replicas: int = 1, **status: int) -> Json:
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1} | status
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": replicas, "template": {"metadata": {"annotations": {"fusemld.io/run": run}}}},
        "status": {"observedGeneration": seen, **counts},
    }


def revision(created: str, ready: str, status: str = "True", run: str = RUN) -> Json:
    return {
        "metadata": {"generation": 1},
        "spec": {"template": {"metadata": {"annotations": {"fusemld.io/run": run}}}},
        "status": {
            "observedGeneration": 1,
            "latestCreatedRevisionName": created,
            "latestReadyRevisionName": ready,
            "conditions": [condition("Ready", status, "RevisionMissing", "not yet")],
        },
    }


def test_a_service_that_nobody_has_looked_at_yet_is_waited_for() -> None:
    verdict = judge({"metadata": {"name": "a", "namespace": "n", "generation": 1}}, run=RUN)

    assert (verdict.phase, verdict.words) == (Phase.WAITING, "KServe has not said anything yet")


@pytest.mark.parametrize(("generation", "phase"), [(1, Phase.READY), (2, Phase.FAILED)])
def test_where_the_workload_cannot_be_seen_only_a_service_of_one_model_is_known_to_be_ready(
    generation: int, phase: Phase
) -> None:
    """What KServe calls the observed generation is that of another object."""
    verdict = judge(service(READY, url=URL, generation=generation, observedGeneration=9), run=RUN)

    assert verdict.phase is phase
    assert verdict.url == (URL if phase is Phase.READY else "")
    assert ("cannot be known" in verdict.words) == (phase is Phase.FAILED)


def test_readiness_without_a_url_is_waited_for_and_the_address_will_do() -> None:
    assert judge(service(READY, generation=1), run=RUN).phase is Phase.WAITING
    assert judge(service(READY, generation=1, address={"url": URL}), run=RUN).url == URL


def test_what_is_waited_for_is_told_in_the_conditions_words() -> None:
    verdict = judge(
        service(
            condition("PredictorReady", "False", "MinimumReplicasUnavailable", "Deployment has no availability."),
            condition("IngressReady", "Unknown"),
            condition("Ready", "False", "MinimumReplicasUnavailable"),
            condition("Stopped", "False", severity="Info"),
            condition("LatestDeploymentReady", "Unknown", severity="Info"),
        ),
        run=RUN,
    )

    assert verdict.phase is Phase.WAITING
    assert verdict.words == (
        "Predictor not ready: MinimumReplicasUnavailable: Deployment has no availability.; "
        "Ingress not known to be ready yet"
    )


@pytest.mark.parametrize("transition", ["BlockedByFailedLoad", "InvalidSpec"])
def test_a_model_that_cannot_be_loaded_has_failed_for_good_with_the_reason(transition: str) -> None:
    info = {"reason": "ModelLoadFailed", "message": "no such file\n", "exitCode": 1, "location": "app-pod"}
    found = service(
        condition("PredictorReady", "False"),
        modelStatus={"transitionStatus": transition, "lastFailureInfo": info},
    )

    verdict = judge(found, run=RUN)

    assert verdict.phase is Phase.FAILED
    assert verdict.words == (
        f"{transition}: ModelLoadFailed: app-pod: exit status 1: no such file; Predictor not ready"
    )


def test_a_failure_that_is_over_does_not_count() -> None:
    info = {"reason": "ModelLoadFailed", "message": "long ago"}
    status = {"transitionStatus": "UpToDate", "lastFailureInfo": info}
    found = service(READY, generation=1, url=URL, modelStatus=status)

    assert judge(found, run=RUN).phase is Phase.READY
    assert failure(found) == ""
    assert failure(None) == ""


@pytest.mark.parametrize("reason", ["ProgressDeadlineExceeded", "RevisionFailed"])
def test_a_deployment_that_was_given_up_has_failed_for_good(reason: str) -> None:
    found = service(condition("PredictorReady", "False", reason, "gave up"))

    assert failure(found) == f"Predictor not ready: {reason}: gave up"
    assert judge(found, run=RUN).phase is Phase.FAILED
    assert failure(service(condition("PredictorReady", "Unknown", reason))) == ""


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("Standard", "/apis/apps/v1/namespaces/models/deployments/app-predictor"),
        ("RawDeployment", "/apis/apps/v1/namespaces/models/deployments/app-predictor"),
        ("Knative", "/apis/serving.knative.dev/v1/namespaces/models/services/app-predictor"),
        ("Serverless", "/apis/serving.knative.dev/v1/namespaces/models/services/app-predictor"),
        ("ModelMesh", None),
    ],
)
def test_the_workload_is_where_the_mode_says(mode: str, path: str | None) -> None:
    place = workload_place(service(READY, deploymentMode=mode))

    assert (None if place is None else place.path) == path


@pytest.mark.parametrize(
    ("kinds", "resource"),
    [
        (("PredictorReady", "IngressReady", "Ready"), "deployments"),
        (("PredictorConfigurationReady", "PredictorRouteReady", "PredictorReady", "Ready"), "services"),
        (("PredictorReady", "IngressReady"), None),
    ],
)
def test_where_the_status_names_no_mode_its_conditions_tell(kinds: tuple[str, ...], resource: str | None) -> None:
    """As in releases before 0.16."""
    place = workload_place(service(*(condition(kind, "True") for kind in kinds)))

    assert (None if place is None else place.resource) == resource


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (None, "has not made the predictor yet"),
        (deployment("r0"), "has not updated the predictor yet"),
        (deployment(seen=2), "update has not begun yet"),
        (deployment(replicas=2, updatedReplicas=1), "1 of 2 pods of the predictor are updated"),
        (deployment(), ""),
        (
            deployment(updatedReplicas=1, availableReplicas=0),
            "0 of 1 pods of the predictor are available",
        ),
    ],
)
def test_a_deployment_serves_the_run_once_its_rollout_is_complete(workload: Json | None, words: str) -> None:
    found = service(READY, url=URL, deploymentMode="Standard", observedGeneration=9)

    verdict = judge(found, run=RUN, place=workload_place(found), workload=workload)

    assert verdict.phase is (Phase.WAITING if words else Phase.READY)
    assert words in verdict.words


def test_pods_of_the_model_before_are_waited_for() -> None:
    found = service(READY, url=URL, deploymentMode="Standard")
    workload = deployment()
    workload["status"]["replicas"] = 2

    verdict = judge(found, run=RUN, place=workload_place(found), workload=workload)

    assert verdict.words == "1 pods of the model before are still there"


@pytest.mark.parametrize(
    ("workload", "phase"),
    [
        (revision("app-2", "app-2"), Phase.READY),
        (revision("app-2", "app-1"), Phase.WAITING),
        (revision("app-2", "app-2", "Unknown"), Phase.WAITING),
        (revision("app-2", "app-2", run="r0"), Phase.WAITING),
    ],
)
def test_a_knative_service_serves_the_run_once_its_newest_revision_is_ready(workload: Json, phase: Phase) -> None:
    found = service(READY, url=URL, deploymentMode="Knative")

    assert judge(found, run=RUN, place=workload_place(found), workload=workload).phase is phase


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/v1/models/app:predict", f"{URL}/v2/models/app/infer"])
def test_a_url_is_told_without_an_inference_path(url: str) -> None:
    assert base_url(url) == URL
