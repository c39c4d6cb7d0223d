"""state-hub: the registry of repos, and the workplans in them."""
