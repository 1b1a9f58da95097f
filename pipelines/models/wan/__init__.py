"""Wan as diffusers has it: its transformer, its causal autoencoder and its text encoder."""
