//! What a guest runs to become its pod's Node.
//!
//! Decisions are pure: [`seed`] and [`join_info`] read what the guest is told, [`files`] says what becomes of it, and
//! [`supervise`] when programs run. [`initrd`], [`init`] and [`join`] are the shells around them, [`cni`] the pod network.

pub mod cni;
pub mod console;
pub mod device_nodes;
pub mod disks;
pub mod files;
pub mod init;
pub mod initrd;
pub mod join;
pub mod join_info;
pub mod k3s;
pub mod kubelet;
pub mod machine;
pub mod modules;
pub mod mounts;
pub mod netlink;
pub mod nft;
pub mod paths;
pub mod power;
pub mod programs;
pub mod seed;
pub mod supervise;
pub mod uplink;
