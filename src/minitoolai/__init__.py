"""MiniToolAI: an AI API that anyone can run and resell."""

__version__ = "0.1.0"
