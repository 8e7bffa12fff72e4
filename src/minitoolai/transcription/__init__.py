"""Transcription: recordings in, text out."""
