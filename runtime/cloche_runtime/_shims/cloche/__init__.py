"""The name `cloche` inside a run whose environment has no such package: `cloche.core.Run`."""
