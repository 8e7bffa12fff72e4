"""The PostgreSQL connection: sessions, pipeline mode and bulk statements."""
