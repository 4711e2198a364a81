//! A program of ours as a process.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command};

use tokio::net::TcpStream;

use crate::until;

/// A program that runs as a process of its own, since memory and sockets are a process's. It is killed when it is
/// dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    /// Starts the program, and waits until it accepts connections at `address`.
    pub async fn start(command: &mut Command, address: SocketAddr) -> Self {
        let child = command.spawn().unwrap();
        let program = Self { child, address };
        until("the program serves", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        program
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asserts that the most memory that it has had is below so many KiB, and prints it.
    pub fn assert_memory_below(&self, kib: usize) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let most: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(most < kib, "{} MiB", most >> 10);
        println!("at most {} MiB", most >> 10);
    }

    /// How many sockets it has open.
    #[must_use]
    pub fn sockets(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let names = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        names
            .filter(|name| name.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
