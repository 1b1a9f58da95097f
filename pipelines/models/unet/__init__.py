"""Models of diffusers whose network is a UNet: found, read, checked, and made one callable."""
