"""What a new installation needs before its services start: secrets, users, topics and rights."""
