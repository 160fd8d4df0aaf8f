"""Tells three kinds of iris apart by the measures of their flowers."""

import argparse

import mlflow
import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--C", type=float, default=1.0, help="inverse strength of the regularisation")
    parser.add_argument("--max-iter", type=int, default=200)
    parser.add_argument("--test-share", type=float, default=0.3, help="part of the flowers kept for the test")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    flowers = load_iris()
    train_x, test_x, train_y, test_y = train_test_split(
        flowers.data, flowers.target, test_size=options.test_share, random_state=options.seed, stratify=flowers.target
    )
    with mlflow.start_run():
        mlflow.log_params({"rows": len(train_x), "classes": len(flowers.target_names)})
        model = make_pipeline(StandardScaler(), LogisticRegression(C=options.C, max_iter=options.max_iter))
        model.fit(train_x, train_y)

        predicted = model.predict(test_x)
        metrics = {
            "accuracy": accuracy_score(test_y, predicted),
            "f1_macro": f1_score(test_y, predicted, average="macro"),
        }
        mlflow.log_metrics(metrics)
        print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))

        mlflow.sklearn.log_model(model, name="model", signature=infer_signature(test_x, predicted))


if __name__ == "__main__":
    main()
