"""Read what an engine streams, and repair or reject what is wrong in it."""
