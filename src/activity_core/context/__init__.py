"""Context queries: what is asked before a run, of whom, and within which limits."""
