"""Models: what predicts noise, wrapped so that the rest need not know which it is."""
