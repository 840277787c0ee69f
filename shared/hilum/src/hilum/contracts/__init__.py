"""Messages between services: a class, a JSON Schema, an example and an owner for each (docs/architecture.md)."""
