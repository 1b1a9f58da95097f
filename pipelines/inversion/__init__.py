"""Inversion, null-text optimisation, decoupled guidance, and sampling along a trajectory."""
