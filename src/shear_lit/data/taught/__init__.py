"""What a teacher says of prepared data, on disk: its record, its files, and looking up sequences in them."""
