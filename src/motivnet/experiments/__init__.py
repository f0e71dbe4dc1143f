"""Many models, many data sets, many seeds: benchmark and ablation."""
