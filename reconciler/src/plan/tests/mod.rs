//! The plan against a control plane in memory: step by step, and in any order.

mod addresses;
mod admissions;
mod claims;
mod csrs;
mod failures;
mod kinds;
mod life;
mod limits;
mod model;
mod pauses;
mod policies;
mod properties;
mod releases;
mod stages;
mod steps;
mod time;
mod words;
