"""Nets of finished runs, as files."""
