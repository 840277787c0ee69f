"""The reading worklist and the evidence viewer, on the loopback interface only."""
