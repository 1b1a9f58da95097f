"""From keyframes to a whole clip: frames between them, and more pixels (Zhang et al., 2023)."""
