"""A stream of batches whose task nobody tells: changes found, tasks opened."""
