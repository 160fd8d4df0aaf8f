"""Trains the models of the tests; runs in an environment with MLflow and scikit-learn: train.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression


def main() -> None:
    folder = Path(sys.argv[1])
    table, species = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=500).fit(table, species)
    signature = infer_signature(table, model.predict(table))
    mlflow.sklearn.save_model(model, folder / "columns", signature=signature)
    array = LogisticRegression(max_iter=500).fit(table.to_numpy(), species)
    mlflow.sklearn.save_model(array, folder / "array")
    constant = DummyClassifier(strategy="constant", constant=1).fit(table, species)
    mlflow.sklearn.save_model(constant, folder / "constant", signature=signature)
    named = LogisticRegression(max_iter=500).fit(
        table, species.map({0: "setosa", 1: "versicolor", 2: "virginica"})
    )
    mlflow.sklearn.save_model(named, folder / "pickled", serialization_format="cloudpickle")


if __name__ == "__main__":
    main()
