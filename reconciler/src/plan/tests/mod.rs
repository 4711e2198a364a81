//! The plan against a control plane in memory: step by step, and in any order.

mod model;
mod life;
mod properties;
