"""Compose an image from what the sketch model drew: cut out, coloured, placed on a background, in a look."""
