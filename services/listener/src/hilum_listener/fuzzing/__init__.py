"""Fuzzing of what strangers' bytes meet first: the PDU reader, the Part 10 indexer and STOW-RS."""
