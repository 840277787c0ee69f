"""Jobs to MedMO to findings."""
