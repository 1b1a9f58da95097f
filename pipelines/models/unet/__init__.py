"""Diffusers' UNet models: how they are found, checked, loaded and called."""
