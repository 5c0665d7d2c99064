"""The parts of the bus on Kafka: reaching the broker, sending, reading, topics, dead letters, rights."""
