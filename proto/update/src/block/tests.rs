//! A block in both directions: one form, everything else refused.
