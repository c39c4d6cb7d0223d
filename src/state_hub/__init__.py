"""A registry of git repos and the workplans in them, kept in step with a database."""

__version__ = "0.1.0"
