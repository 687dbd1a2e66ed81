"""Objects in remote storage: asked for again where that fails, read and written."""
