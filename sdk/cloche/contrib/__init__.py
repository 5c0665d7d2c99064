"""What the SDK that people know keeps under this name."""
