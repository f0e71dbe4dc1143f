"""Plain modules: backbones, ML-Decoder and the other heads, MotivNet. No engine, no I/O."""
