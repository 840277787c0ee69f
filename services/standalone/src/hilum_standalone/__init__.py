"""The `hilum` command: every service in one process tree, the demo, and what an operator needs beside it."""
