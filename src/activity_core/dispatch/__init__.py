"""From a run that may start to a worker that runs it."""
