"""Energies: pure scalar functions of an unknown, parameters and data."""
