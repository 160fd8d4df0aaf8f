"""Tells three growers of wine apart by a chemical analysis."""

import argparse

import mlflow
import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score, train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--max-depth", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    wines = load_wine(as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(
        wines.data, wines.target, random_state=options.seed, stratify=wines.target
    )
    with mlflow.start_run():
        model = RandomForestClassifier(
            n_estimators=options.trees, max_depth=options.max_depth, random_state=options.seed
        )
        scores = cross_val_score(model, train_x, train_y, cv=3)
        for fold, score in enumerate(scores):
            mlflow.log_metric("fold_accuracy", float(score), step=fold)
        model.fit(train_x, train_y)
        accuracy = model.score(test_x, test_y)
        mlflow.log_metric("accuracy", accuracy)
        print(f"accuracy {accuracy:.3f}, in cross validation {scores.mean():.3f}")

        # pickled: MLflow's default format refuses the inner type of decision trees
        mlflow.sklearn.log_model(
            model,
            name="model",
            serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_CLOUDPICKLE,
            signature=infer_signature(test_x, model.predict(test_x)),
        )


if __name__ == "__main__":
    main()
