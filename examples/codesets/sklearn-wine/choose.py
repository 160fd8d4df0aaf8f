"""Takes the better of two models that MLflow has tracked; the standard library is all it needs."""

import json
import os
import urllib.parse
import urllib.request
from pathlib import Path


def metric(model_url: str, name: str) -> float:
    """The metric of the run that logged the model at `s3://BUCKET/EXPERIMENT/models/MODEL/artifacts`."""
    model = model_url.split("/models/")[1].split("/")[0]
    run = ask(f"logged-models/{model}")["model"]["info"]["source_run_id"]
    metrics = ask("runs/get?" + urllib.parse.urlencode({"run_id": run}))["run"]["data"]["metrics"]
    return next(entry["value"] for entry in metrics if entry["key"] == name)


def ask(path: str) -> dict:
    with urllib.request.urlopen(f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}") as answer:
        return json.load(answer)


def main() -> None:
    scores = {url: metric(url, os.environ["FUSEML_METRIC"]) for url in (os.environ["FUSEML_FIRST"], os.environ["FUSEML_SECOND"])}
    for url, score in scores.items():
        print(f"{score:.3f} {url}")
    Path(os.environ["FUSEML_RESULTS_DIR"], os.environ["TASK_RESULT"]).write_text(max(scores, key=scores.__getitem__))


if __name__ == "__main__":
    main()
