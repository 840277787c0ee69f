"""The event log of a cluster: an outbox in PostgreSQL, Apache Kafka between the services, offsets in PostgreSQL."""
