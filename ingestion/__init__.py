"""What arrives: event types, topics, the broker, the history log, simulators, file mappings."""
