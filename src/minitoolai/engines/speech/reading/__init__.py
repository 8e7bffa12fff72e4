"""Prepare text for an embedded voice, in its child process: language, and the words of numbers and symbols."""
