"""What scoring scripts with raw HTTP import."""
