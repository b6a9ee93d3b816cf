"""L1: durable key-value storage and objects, over the C engine."""
