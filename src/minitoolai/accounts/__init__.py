"""Users and API keys: sign-up, sign-in, key verification, rate limits and outgoing e-mail."""
