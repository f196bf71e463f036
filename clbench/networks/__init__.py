"""The networks, and what is measured in them sample by sample."""
