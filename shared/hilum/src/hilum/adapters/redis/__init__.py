"""What the cluster uses Redis for: wake-ups and live updates. Nothing in it is kept; it may be flushed at any time."""
