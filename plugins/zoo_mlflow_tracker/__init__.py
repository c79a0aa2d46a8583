"""Logs every finished evaluation to the MLflow server in ``MLFLOW_TRACKING_URI``, if it is set."""
