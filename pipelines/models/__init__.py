"""What a loop may ask of a model: levels and noise, prompts, frames to latents and back."""
