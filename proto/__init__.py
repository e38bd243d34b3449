"""The wire between managers and agents: protobuf contracts, their generated stubs, and the conversion to the model."""
