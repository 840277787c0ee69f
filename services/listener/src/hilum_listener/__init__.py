"""The front door: receives instances, folds them into studies, and routes complete ones."""
