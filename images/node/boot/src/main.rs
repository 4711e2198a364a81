//! One static program under several names: the initrd's init, the root's init, `join`, and the CNI plugin.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use marooned_node_boot::cni;

fn main() -> ExitCode {
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name)
        .file_name()
        .is_some_and(|name| name == cni::PROGRAM)
    {
        return cni::run();
    }
    ExitCode::SUCCESS
}
