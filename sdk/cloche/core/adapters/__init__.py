"""What this layer reaches by others' clients."""
