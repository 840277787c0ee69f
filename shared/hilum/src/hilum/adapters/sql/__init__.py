"""State in SQLite (embedded) through SQLAlchemy Core."""
