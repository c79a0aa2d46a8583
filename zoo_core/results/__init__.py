"""What finished runs say: scored again, compared, held against references, verified and listed."""
