"""The database: one writer, group commit, migrations."""
