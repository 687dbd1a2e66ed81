"""What touches the disk: reads that are bounded, writes that are whole, and names that stay in their directory."""
