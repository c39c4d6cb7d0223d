"""The migrations of the hub's database."""
