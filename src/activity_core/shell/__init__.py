"""One shell command: its environment, its process with the whole tree below it, and what it prints."""
