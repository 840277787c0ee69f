"""Where requests come from and the process loop."""
