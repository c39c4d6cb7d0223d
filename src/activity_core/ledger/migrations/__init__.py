"""Alembic scripts of the ledger's schema."""
