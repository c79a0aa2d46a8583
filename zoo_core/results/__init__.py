"""Work on finished runs and stored predictions: score again, compare, check, verify, reproduce."""
