"""Diffusers' Wan: the transformer, the autoencoder that compresses time, the text encoder."""
