"""Executes exported networks and compares them with the simulation."""
