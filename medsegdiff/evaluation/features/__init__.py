"""Feature spaces in which sets of pictures are compared, one a file."""
