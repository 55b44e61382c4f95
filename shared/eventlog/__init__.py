"""The event log: `protocol` is what services see, `memory` and `jetstream` implement it, `chain` verifies it."""
