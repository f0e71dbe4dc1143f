"""Grids of recipes, run over several seeds and compared."""
