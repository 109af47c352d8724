//! The Burn extension ops: one trait, default bodies in plain Burn ops, host overrides.
