"""Changes of attention in video diffusion transformers (DiT): layers, and how to install."""
