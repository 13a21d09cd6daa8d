"""Our own pictures: each is plain data, with one function per output: SVG, text for a terminal, a table."""
