"""What the builder decides, as pure functions: builds, requests for builds, and what names them."""
