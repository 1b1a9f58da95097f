"""Other ways to edit a clip, told again from their papers: what a user could take instead."""
