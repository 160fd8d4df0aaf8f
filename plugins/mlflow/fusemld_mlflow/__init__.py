"""fusemld plugin: MLflow tracking, the mlflow-builder step and its runtime."""
