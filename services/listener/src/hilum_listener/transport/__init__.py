"""DIMSE."""
