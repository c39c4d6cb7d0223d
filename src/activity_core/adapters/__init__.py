"""Context sources for the systems that definitions ask about; found through entry points."""
