"""The tiny thinker: a model of under a million parameters that reasons, and overthinks, by construction."""
