"""What everybody may read: front page, guide, prices, models, reference, search."""
