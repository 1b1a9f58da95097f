"""How changes of attention are installed in diffusion transformers of video."""
