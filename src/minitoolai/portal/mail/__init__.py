"""E-mails to users."""
