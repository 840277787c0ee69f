"""The rules of Hilum as functions of values: no I/O, no clock, no framework (docs/architecture.md)."""
