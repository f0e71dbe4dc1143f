"""Training: recipes, the Lightning modules and the trainer."""
