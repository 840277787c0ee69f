"""MedMO behind a model server: the contract both ends share, the queue in front of the engine, and Triton's side."""
