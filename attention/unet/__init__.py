"""Changes of attention in diffusers' UNets: where the layers are, and how to install a change."""
