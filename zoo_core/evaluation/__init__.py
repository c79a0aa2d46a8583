"""The whole job: request, preparation, stages, run and record."""
