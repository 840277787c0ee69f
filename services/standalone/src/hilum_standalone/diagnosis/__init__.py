"""What `hilum doctor` looks at: each check gives what it found and, when something is wrong, what to do."""
