"""Models that look at pictures: detection, tracking, and embeddings for measures."""
