"""The committed records, and the page made of them."""
