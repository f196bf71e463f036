"""A report as a page, a document, files for authors and words in a terminal."""
