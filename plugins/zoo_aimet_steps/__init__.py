"""More quantization steps of AIMET: sequential MSE and batch-norm re-estimation."""
