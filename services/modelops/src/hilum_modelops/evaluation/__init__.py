"""Measures MedMO-Nano on generated radiographs that it never saw, through the runtime that Hilum ships."""
