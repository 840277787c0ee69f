"""What a cluster on this machine carries: a hospital's peak hour times ten, and workers by number."""
