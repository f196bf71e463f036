"""Code of the user's own: found in a file or a package, loaded apart from other modules, identified by its content."""
