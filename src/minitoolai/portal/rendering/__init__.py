"""Markdown, code, prose and charts as HTML."""
