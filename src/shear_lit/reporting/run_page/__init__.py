"""A run as a page that opens from disk: figures as text and as pictures, complete in itself."""
