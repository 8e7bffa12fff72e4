"""What a customer sees of an account: keys, usage, requests, members."""
