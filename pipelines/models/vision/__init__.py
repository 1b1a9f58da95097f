"""Models that look at pictures: what a prompt names, where it goes, how well words fit."""
