"""Configuration, life cycle, logs and the consumer loop of every service."""
