"""Logs every finished evaluation to an MLflow server, where ``MLFLOW_TRACKING_URI`` names one."""
