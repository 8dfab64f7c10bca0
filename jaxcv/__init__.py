"""Vision by minimising energies, and learning through the minimiser, in JAX."""
