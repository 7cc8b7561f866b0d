"""What we know at a moment: entities, state, features, the feature store."""
