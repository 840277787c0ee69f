"""One module for each command. They import little at the top, so that a light command starts at once."""
