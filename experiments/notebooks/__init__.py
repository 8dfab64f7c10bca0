"""Pages and pictures that explain the library."""
