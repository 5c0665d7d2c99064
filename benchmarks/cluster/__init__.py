"""Figures of Cloche on Kafka, a document store and S3: `python -m benchmarks.cluster`."""
