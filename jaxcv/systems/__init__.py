"""One pure entry point per task."""
