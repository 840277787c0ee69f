"""Train, evaluate and export MedMO-Nano. Works offline; nothing in the hospital path imports it but the demo."""
