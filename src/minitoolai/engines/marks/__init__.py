"""Watermarks in images and speech: embed and detect. The only place that knows their signals."""
