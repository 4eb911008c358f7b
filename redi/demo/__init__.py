"""A page on which methods are compared one prompt at a time; what it computes needs no page."""
