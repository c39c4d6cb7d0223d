"""The hub's database: schema, statements, migrations."""
