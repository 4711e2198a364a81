//! What tests run in: an environment with everything in it, its tenants, their pods.

pub mod bare_guest;
pub mod cut_proxy;
pub mod fixtures;
pub mod load;
pub mod marooned_pod;
pub mod real_env;
pub mod registry;
mod secret_volume;
pub mod tenant;
pub mod test_env;
pub mod webhook_pod;
pub mod writes;
