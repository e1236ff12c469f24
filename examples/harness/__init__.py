"""Code that the examples share: options, processes, tables and the style of pictures."""
