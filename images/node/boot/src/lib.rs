//! What a guest runs to become its pod's Node.

pub mod cni;
pub mod netlink;
pub mod nft;
