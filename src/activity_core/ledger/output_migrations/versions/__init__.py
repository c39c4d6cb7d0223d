"""Alembic scripts of the output file."""
