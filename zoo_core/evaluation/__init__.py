"""Prepares, runs and records evaluations."""
