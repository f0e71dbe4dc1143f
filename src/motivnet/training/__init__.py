"""Recipes, the Lightning module and what it needs."""
