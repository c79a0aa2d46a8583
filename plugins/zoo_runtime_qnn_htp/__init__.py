"""Executes exported networks on Qualcomm's emulator of the Hexagon Tensor Processor (HTP)."""
