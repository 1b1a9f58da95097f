"""Adapters from diffusers modules to one callable, `eps_theta(z, t, cond) -> eps`."""
