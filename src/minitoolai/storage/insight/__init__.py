"""Read what the operator sees: sums of traffic, the log of requests, and the search for customers."""
