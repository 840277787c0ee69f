"""What the worker does with a request."""
