"""Predicts how a diabetes goes on within a year, from ten measures of a patient."""

import argparse

import mlflow
import mlflow.sklearn
import numpy as np
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import cross_val_predict, train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--l1-ratio", type=float, default=0.5)
    parser.add_argument("--folds", type=int, default=0, help="cross-validate over the whole data instead of one split")
    options = parser.parse_args()

    patients = load_diabetes()
    model = ElasticNet(alpha=options.alpha, l1_ratio=options.l1_ratio)
    with mlflow.start_run():
        if options.folds:
            truth = patients.target
            predicted = cross_val_predict(model, patients.data, truth, cv=options.folds)
            model.fit(patients.data, truth)
        else:
            train_x, test_x, train_y, truth = train_test_split(patients.data, patients.target, random_state=7)
            predicted = model.fit(train_x, train_y).predict(test_x)
        metrics = {
            "rmse": root_mean_squared_error(truth, predicted),
            "mae": mean_absolute_error(truth, predicted),
            "r2": r2_score(truth, predicted),
            "weights_used": float(np.count_nonzero(model.coef_)),
        }
        mlflow.log_metrics(metrics)
        print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))

        mlflow.sklearn.log_model(model, name="model", signature=infer_signature(patients.data, predicted))


if __name__ == "__main__":
    main()
