"""Layer shapes in, milliseconds out."""
