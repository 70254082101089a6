//! Records as lines and spans.
