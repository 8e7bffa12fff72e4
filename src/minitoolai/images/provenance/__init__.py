"""Mark images as made by a machine, and read such marks."""
