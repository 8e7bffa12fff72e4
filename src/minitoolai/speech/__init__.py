"""Text to speech: parse a request, check and split its text, run it and charge for it."""
