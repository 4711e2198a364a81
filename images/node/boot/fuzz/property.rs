//! What holds for every seed, however wrong: used by the fuzz target and by `tests/seed.rs`.

use marooned_node_boot::{files, join_info, seed};
use serde_yaml_ng::Value;

/// Reads both texts as a seed's. Nothing panics, and what is taken becomes files that say what the seed said.
///
/// # Panics
/// Where that does not hold.
pub fn holds(text: &str) {
    let _ = seed::network(text);
    if let Ok(yaml) = seed::join_info(text) {
        taken(&yaml);
    }
    taken(text);
}

fn taken(yaml: &str) {
    let Ok(info) = join_info::parse(yaml) else { return };
    // Only k3s refuses more: several certificates.
    let Ok(files) = files::to_join(&info) else { return };
    let content = |end: &str| {
        files
            .iter()
            .find(|file| file.path.ends_with(end))
            .map(|file| &file.content)
    };
    let reads_back = |yaml: &str, wanted: &dyn Fn(&Value) -> bool| {
        serde_yaml_ng::from_str(yaml).is_ok_and(|read| wanted(&read))
    };
    if let Some(kubeconfig) = content("bootstrap.kubeconfig") {
        let wanted = |read: &Value| {
            read["clusters"][0]["cluster"]["server"] == info.server_url
                && read["users"][0]["user"]["token"] == info.token.reveal()
        };
        assert!(reads_back(kubeconfig, &wanted), "{kubeconfig}");
    }
    if let Some(agent) = content("config.yaml") {
        let wanted = |read: &Value| read["server"] == info.server_url && read["node-name"] == info.node_name;
        assert!(reads_back(agent, &wanted), "{agent}");
    }
    // Files of lines: nothing in the join info may add one.
    for (end, lines) in [
        ("kubelet.env", 1),
        ("10-marooned.conflist", 1),
        ("resolv.conf", 1),
    ] {
        let found = content(end).map_or(0, |content| content.lines().count());
        assert!(found <= lines, "{end} has {found} lines");
    }
    for file in &files {
        let secret = file.content.contains(info.token.reveal());
        assert!(
            !secret || file.mode == 0o600,
            "{} holds the token, and others may read it",
            file.path
        );
    }
}
