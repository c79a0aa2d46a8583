"""Executes exported networks with OpenVINO on the CPU."""
