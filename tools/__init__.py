"""Helpers of those who work on MiniToolAI; nothing here is installed."""
