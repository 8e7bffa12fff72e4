"""Sign-up, sign-in, second factors, passkeys and recovery."""
