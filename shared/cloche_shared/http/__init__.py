"""The HTTP kit that the four services' REST APIs share (docs/reference/http.md)."""
