"""One service as a process of its own, on Kafka, MongoDB and S3."""
