"""Ways to learn several tasks in turn, one a file, and what they share."""
