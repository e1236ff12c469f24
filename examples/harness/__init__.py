"""What the examples share: options, processes, tables and the looks of pictures."""
