"""Adapters for what generates text, images and speech. They know nothing of money or storage."""
