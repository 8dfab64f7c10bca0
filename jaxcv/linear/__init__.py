"""Symmetric linear systems H u = v: dense, block, arrow and Krylov methods, and their damping."""
