"""ActivityDefinitions: the file's text, its schema, and the frozen values the rest of the program reads."""
