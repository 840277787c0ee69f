"""Training of MedMO-Nano. Everything below this package may import torch."""
