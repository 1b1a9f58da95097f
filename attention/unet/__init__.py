"""The attention layers of diffusers' UNets: where they are, and how a change is installed there."""
