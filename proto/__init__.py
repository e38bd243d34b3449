"""The wire between managers and agents: contracts, generated stubs, conversion to the model."""
