"""What the results service decides and writes: results, outcomes, deliveries. Each function takes `now`."""
